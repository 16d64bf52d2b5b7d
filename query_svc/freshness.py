"""Can a caller read what its acknowledgements cover, and if not yet, for how long is it kept waiting?"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Partition
from mesh.tokens import read_position
from mesh.topics import ACCEPTED, BACKFILL, RESTORED
from query_svc.recorded import Recorded

MOST_POSITIONS = 100
DEFAULT_WAIT_S = 5.0
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """Positions from acknowledgements or a restore, and how long to wait for them (0: 5 s; lowered to 60 s)."""

    at_least: Sequence[str] = ()
    wait_s: float = 0.0


async def wait_until_readable(recorded: Recorded, log_id: str, asked: Freshness, sensor_ids: Collection[int] = ()) -> None:
    """Returns once everything up to the positions is recorded, of these sensors, or of all when none is named. Raises
    InvalidArgument for what is no position of this log, Unavailable (NOT_YET_READABLE) when the wait was too short, Unavailable
    at once when a shard that has any of them is away."""
    if len(asked.at_least) > MOST_POSITIONS:
        raise _invalid("freshness.at_least", f"{len(asked.at_least)} positions, at most {MOST_POSITIONS}: the newest are enough")
    if asked.wait_s < 0:
        raise _invalid("freshness.wait_duration", f"{asked.wait_s:g} s is negative")
    wanted: dict[Partition, int] = {}
    for number, token in enumerate(asked.at_least):
        field = f"freshness.at_least[{number}]"
        for (topic, partition), offset in read_position(token, log_id, field).items():
            if topic not in (ACCEPTED, BACKFILL, RESTORED):
                raise _invalid(field, f"a position in {topic!r}, not in {ACCEPTED}, {BACKFILL} or {RESTORED}")
            place = Partition(topic, partition)
            wanted[place] = max(offset, wanted.get(place, -1))
    if not wanted:
        return
    wait_s = min(asked.wait_s or DEFAULT_WAIT_S, LONGEST_WAIT_S)
    if not await recorded.wait_for(wanted, wait_s, sensor_ids):
        message = f"not everything at these positions could be read within {wait_s:g} s; nothing is lost, ask again"
        raise Unavailable(message, reason="NOT_YET_READABLE", retry_after_s=1.0)


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {problem}", fields={field: problem})
