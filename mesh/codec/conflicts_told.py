"""How far do the conflicts objects of an archive tell everything? A word of each shard, `manifest/<log_id>/conflicts/<shard>/
told/<sha256>.txt`: once true, always true, so it may be replaced by one that says more."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.codec.conflicts import conflicts_folder
from mesh.errors import InvalidArgument

_PATH = re.compile(r"manifest/([A-Za-z0-9._=-]+)/conflicts/([0-9]{1,9})/told/([0-9a-f]{64})\.txt", re.ASCII)
MOST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """The first `line_count` lines of the shard's conflicts objects name every reading of the shard that lost and came from a
    record at or before `until`, which is by topic and partition of the log. The log's deployment has `shard_count` shards."""

    log_id: str
    shard: int
    shard_count: int
    line_count: int
    until: Mapping[tuple[str, int], int]

    def says_no_more_than(self, other: "Told") -> bool:
        """Whether nothing is lost when the other, of the same shard, stands in its place."""
        known = other.until
        return self.line_count <= other.line_count and all(known.get(place, -1) >= at for place, at in self.until.items())


def told_folder(log_id: str, shard: int) -> str:
    """Where the words of a shard lie."""
    return f"{conflicts_folder(log_id)}{shard}/told/"


def write_told(told: Told) -> tuple[str, bytes]:
    """Path and content."""
    until = [[*place, offset] for place, offset in sorted(told.until.items())]
    said = {"line_count": told.line_count, "shard_count": told.shard_count, "until": until}
    content = json.dumps(said, sort_keys=True).encode() + b"\n"
    return f"{told_folder(told.log_id, told.shard)}{hashlib.sha256(content).hexdigest()}.txt", content


def is_told(path: str) -> bool:
    """Whether a word of a shard is there."""
    return _PATH.fullmatch(path) is not None


def read_told(path: str, content: bytes) -> Told:
    """The inverse of `write_told`. Raises InvalidArgument (UNREADABLE_OBJECT) for anything else."""
    found = _PATH.fullmatch(path)
    try:
        if not found or len(content) > MOST_BYTES or hashlib.sha256(content).hexdigest() != found[3]:
            raise ValueError
        said = json.loads(content)
        told = Told(found[1], int(found[2]), said["shard_count"], said["line_count"], _until(said["until"]))
        if type(told.shard_count) is int and type(told.line_count) is int and told.shard_count > 0:
            return told
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InvalidArgument(f"object {path!r} is no word of how far the conflicts tell everything", reason="UNREADABLE_OBJECT")


def _until(said: list[list[object]]) -> dict[tuple[str, int], int]:
    until = {}
    for place in said:
        match place:
            case [str(topic), int(number), int(offset)]:
                until[topic, number] = offset
            case _:
                raise ValueError
    return until
