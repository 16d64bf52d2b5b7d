"""How far each stage has come: the shared table `positions`, read whole and moved only by compare-and-set (law 4)."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import FailedPrecondition, PositionLost
from mesh.ports import Partition

NO_SLOT = -1


class Position(NamedTuple):
    """The last offset whose effect is stored, and the `source_offset` of that record (-1 where the stage has none)."""

    offset: int
    source_offset: int

    @property
    def next(self) -> int:
        """Where to go on reading."""
        return self.offset + 1


NOWHERE = Position(-1, -1)


async def create(connection: AsyncConnection) -> None:
    """Makes the table unless it is there."""
    await connection.execute(text(_TABLE))


async def read(
    connection: AsyncConnection, stage: str, log_id: str, topics: Iterable[str]
) -> dict[tuple[int, Partition], Position]:
    """Every position of the stage in these topics; what is missing is NOWHERE. Raises FailedPrecondition (OTHER_LOG) when
    any of them belongs to another log."""
    rows = await connection.execute(text(_READ), {"stage": stage, "topics": list(topics)})
    found = {}
    for slot, topic, number, other_log, offset, source_offset in rows:
        if other_log != log_id:
            message = (
                f"positions of {stage} in {topic} belong to log {other_log}, this is log {log_id}: use the data of one deployment"
            )
            raise FailedPrecondition(message, reason="OTHER_LOG")
        found[slot, Partition(topic, number)] = Position(offset, source_offset)
    return found


async def lowest(
    connection: AsyncConnection, stage: str, log_id: str, topics: Iterable[str], slots: Iterable[int]
) -> dict[Partition, Position]:
    """The lowest position over these slots, for each partition that all of them have begun; what is missing is NOWHERE. Raises
    as `read` does. Costs one small answer however many slots there are."""
    wanted = list(slots)
    rows = await connection.execute(text(_LOWEST), {"stage": stage, "topics": list(topics), "slots": wanted, "log_id": log_id})
    found = {}
    for topic, number, count, other_log, offset, source_offset in rows:
        if other_log is not None:
            raise _other_log(stage, topic, other_log, log_id)
        if count == len(wanted):
            found[Partition(topic, number)] = Position(offset, source_offset)
    return found


async def move(
    connection: AsyncConnection,
    stage: str,
    log_id: str,
    partition: Partition,
    expected: Mapping[int, Position],
    new: Position,
) -> None:
    """Moves the position of every slot in `expected` to `new`, in this transaction. Raises PositionLost unless each was
    exactly as expected (NOWHERE: not there yet); then roll back and stop: another worker has taken over."""
    slots = sorted(expected)
    arguments = {
        "stage": stage,
        "log_id": log_id,
        "topic": partition.topic,
        "number": partition.number,
        "slots": slots,
        "offsets": [expected[slot].offset for slot in slots],
        "sources": [expected[slot].source_offset for slot in slots],
        "offset": new.offset,
        "source_offset": new.source_offset,
    }
    moved = (await connection.execute(text(_MOVE), arguments)).scalar_one()
    if moved != len(slots):
        where = f"{partition.topic}/{partition.number}"
        raise PositionLost(f"{stage} of {where}: {len(slots) - moved} of {len(slots)} positions were moved by another worker")


def _other_log(stage: str, topic: str, other_log: str, log_id: str) -> FailedPrecondition:
    message = f"positions of {stage} in {topic} belong to log {other_log}, this is log {log_id}: use the data of one deployment"
    return FailedPrecondition(message, reason="OTHER_LOG")


_TABLE = """
CREATE TABLE IF NOT EXISTS positions (
    stage text NOT NULL, slot int NOT NULL, topic text NOT NULL, partition int NOT NULL, log_id text NOT NULL,
    "offset" bigint NOT NULL, source_offset bigint NOT NULL, PRIMARY KEY (stage, slot, topic, partition))
"""

_READ = """
SELECT slot, topic, partition, log_id, "offset", source_offset FROM positions
WHERE stage = :stage AND topic = ANY(CAST(:topics AS text[]))
"""

_LOWEST = """
SELECT topic, partition, count(*), min(log_id) FILTER (WHERE log_id <> :log_id), min("offset"), min(source_offset) FROM positions
WHERE stage = :stage AND topic = ANY(CAST(:topics AS text[])) AND slot = ANY(CAST(:slots AS int[])) GROUP BY topic, partition
"""

_MOVE = """
WITH expected AS (
    SELECT * FROM unnest(CAST(:slots AS int[]), CAST(:offsets AS bigint[]), CAST(:sources AS bigint[])) AS e (slot, o, s)
), moved AS (
    UPDATE positions p SET "offset" = :offset, source_offset = :source_offset FROM expected e
    WHERE p.stage = :stage AND p.slot = e.slot AND p.topic = :topic AND p.partition = :number
      AND p.log_id = :log_id AND p."offset" = e.o AND p.source_offset = e.s
    RETURNING 1
), made AS (
    INSERT INTO positions (stage, slot, topic, partition, log_id, "offset", source_offset)
    SELECT :stage, e.slot, :topic, :number, :log_id, :offset, :source_offset FROM expected e WHERE e.o = -1 AND e.s = -1
    ORDER BY e.slot
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT (SELECT count(*) FROM moved) + (SELECT count(*) FROM made)
"""
