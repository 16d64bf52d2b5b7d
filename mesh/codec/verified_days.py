"""Which days does the archive hold for sure? Its word, `manifest/<log_id>/verified/<sha256>.txt`: once true, always true, and
replaced by newer ones. Written by archive_svc; query_svc reads it before it drops a day from the shards.

The word in full: of every record of `screened` and `screened_backfill` at or before `until`, each reading that was measured
before `before_us` is in an object of the archive that was read back after it was put and held what was put, unless it was
measured on a day in `unverified`, or its record is in `dead` by the stage `archive`. What a restore brought into the shards
(topic `restored`) was in objects before, of which the same is said.

So a shard may drop a UTC day when `holds(day_us, offsets)` is true, where `offsets` are those up to which the rows of that day
that it has were recorded: positions of the stage `record`, read while nothing can be added to the day.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mesh.errors import InvalidArgument

DAY_US = 86_400_000_000
MOST_BYTES = 4 * 1024 * 1024
_PATH = re.compile(r"manifest/([A-Za-z0-9._=-]+)/verified/([0-9a-f]{64})\.txt", re.ASCII)


@dataclass(frozen=True, slots=True)
class VerifiedDays:
    """`until`: the last offset by topic and partition of the log `log_id`; a partition that is missing is not archived at all.
    `before_us`: where the first day that is not over for the archive begins, microseconds since 1970; `unverified`: days before
    that, by the microsecond at which each begins, that are not verified (yet). `said_us`: when."""

    log_id: str
    until: Mapping[tuple[str, int], int]
    before_us: int
    unverified: frozenset[int]
    said_us: int

    def holds(self, day_us: int, offsets: Mapping[tuple[str, int], int]) -> bool:
        """Whether everything that was measured on the UTC day that begins at `day_us` and recorded up to these offsets (-1:
        nothing) is in verified objects. A day without any reading is held too."""
        if day_us % DAY_US:
            raise ValueError(f"{day_us} us is not the begin of a UTC day")
        is_verified = day_us + DAY_US <= self.before_us and day_us not in self.unverified
        return is_verified and all(self.until.get(place, -1) >= offset for place, offset in offsets.items())


def verified_folder(log_id: str) -> str:
    """Where the words about a log lie; the one with the latest `said_us` says most."""
    return f"manifest/{log_id}/verified/"


def is_verified(path: str) -> bool:
    """Whether such a word is there."""
    return _PATH.fullmatch(path) is not None


def write_verified(
    log_id: str, until: Mapping[tuple[str, int], int], before_us: int, unverified: Collection[int], said_us: int
) -> tuple[str, bytes]:
    """Path and content."""
    said = {
        "log_id": log_id,
        "until": [[*place, offset] for place, offset in sorted(until.items())],
        "before_us": before_us,
        "unverified": sorted(unverified),
        "said_us": said_us,
    }
    content = json.dumps(said, sort_keys=True).encode() + b"\n"
    return f"{verified_folder(log_id)}{hashlib.sha256(content).hexdigest()}.txt", content


def read_verified(path: str, content: bytes) -> VerifiedDays:
    """The inverse of `write_verified`. Raises InvalidArgument (UNREADABLE_OBJECT) for anything else, also changed bytes."""
    found = _PATH.fullmatch(path)
    try:
        if not found or len(content) > MOST_BYTES or hashlib.sha256(content).hexdigest() != found[2]:
            raise ValueError
        match json.loads(content):
            case {
                "log_id": str(log_id),
                "until": list(until),
                "before_us": int(before_us),
                "unverified": list(unverified),
                "said_us": int(said_us),
            } if log_id == found[1] and all(type(day) is int for day in unverified):
                return VerifiedDays(log_id, dict(map(_place, until)), before_us, frozenset(unverified), said_us)
    except (ValueError, RecursionError):
        pass
    raise InvalidArgument(f"object {path!r} is no word of which days are verified", reason="UNREADABLE_OBJECT")


def _place(said: object) -> tuple[tuple[str, int], int]:
    match said:
        case [str(topic), int(number), int(offset)]:
            return (topic, number), offset
    raise ValueError
