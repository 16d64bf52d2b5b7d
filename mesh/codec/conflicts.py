"""Objects that tell which readings lost against another of the same sensor and time: JSON lines, one per reading, beside the
manifest. Written by query_svc, which decides (law 5), and read by a restore, which leaves these readings out.

An object's path says what it must hold: `manifest/<log_id>/conflicts/<shard>/<number>-<count>-<sha256>.jsonl`, where number is
that of its first line among all of the shard, from 0. So a missing or changed one is found without any other record of it.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mesh.errors import FailedPrecondition

MOST_LINES = 10_000
"""Lines of an object."""
MOST_LINE_BYTES = 4_096
_TOPIC = re.compile(r"[a-z_]{1,64}")
_PATH = re.compile(
    r"manifest/(?P<log_id>[A-Za-z0-9._=-]+)/conflicts/(?P<shard>[0-9]{1,9})/(?P<first>[0-9]{20})-(?P<count>[0-9]{1,9})"
    r"-(?P<sha256>[0-9a-f]{64})\.jsonl",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Loser:
    """Place of a reading in the Log: its record, and its index there."""

    topic: str
    partition: int
    offset: int
    index: int


@dataclass(frozen=True, slots=True)
class ConflictsObject:
    """What a path says of its object. `first`: number of its first line among the lines of the shard."""

    log_id: str
    shard: int
    first: int
    count: int
    sha256: str

    @property
    def path(self) -> str:
        """Where it lies."""
        return f"{conflicts_folder(self.log_id)}{self.shard}/{self.first:020d}-{self.count}-{self.sha256}.jsonl"


def conflicts_folder(log_id: str) -> str:
    """Where those of a log lie."""
    return f"manifest/{log_id}/conflicts/"


def write_conflicts(log_id: str, shard: int, first: int, lines: Iterable[str]) -> tuple[str, bytes]:
    """Path and content of the object of these lines, each a JSON object with at least the fields of Loser."""
    lines = list(lines)
    content = "".join(f"{line}\n" for line in lines).encode()
    return ConflictsObject(log_id, shard, first, len(lines), hashlib.sha256(content).hexdigest()).path, content


def read_conflicts_path(path: str) -> ConflictsObject | None:
    """What the path says; None: no path of conflicts."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    return ConflictsObject(found["log_id"], int(found["shard"]), int(found["first"]), int(found["count"]), found["sha256"])


def read_losers(of: ConflictsObject, content: bytes) -> list[Loser]:
    """The places of all lines. Raises FailedPrecondition (OBJECT_DAMAGED) when this is not the object that was put."""
    if of.count > MOST_LINES or len(content) > of.count * MOST_LINE_BYTES:
        raise _damaged(of, f"{of.count} lines in {len(content)} bytes, more than any of ours has")
    found = hashlib.sha256(content).hexdigest()
    if found != of.sha256:
        raise _damaged(of, f"its checksum is {found}")
    try:
        losers = [_loser(json.loads(line)) for line in content.splitlines()]
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(of, f"a line is no conflicting reading: {error!r}") from error
    if len(losers) != of.count:
        raise _damaged(of, f"it has {len(losers)} lines")
    return losers


def _loser(line: dict[str, object]) -> Loser:
    match line:
        case {"topic": str(topic), "partition": int(partition), "offset": int(offset), "index": int(index)} if (
            _TOPIC.fullmatch(topic) and 0 <= partition < 2**31 and 0 <= offset < 2**63 and 0 <= index < 2**31
        ):
            return Loser(topic, partition, offset, index)
    raise ValueError(f"{sorted(line)} without topic, partition, offset and index, or with others than numbers from 0")


def _damaged(of: ConflictsObject, problem: str) -> FailedPrecondition:
    message = f"object {of.path!r} is damaged: {problem}; bring it back from a copy"
    return FailedPrecondition(message, reason="OBJECT_DAMAGED", metadata={"path": of.path})
