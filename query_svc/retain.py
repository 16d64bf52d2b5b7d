"""Drops log records that are old enough and that every stage has passed, so that the Log stays bounded and nothing is lost."""

from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh import positions
from mesh.errors import Unavailable
from mesh.ports import Clock, Log, Partition
from mesh.positions import NOWHERE, Position
from mesh.shards import AnyShards, transaction
from mesh.stages import Progress
from mesh.topics import CONTEXTS
from query_svc.record import STAGE as RECORD

EVERY_S = 600.0
READ_WITHIN_S = 10.0
_log = structlog.get_logger()


class Retain:
    """Every 10 minutes trims each topic named in `passed_by`: the stages there must have passed a record before it goes, and so
    must every other stage that has a position in its topic (a stage's positions row never runs ahead of its checkpoint). A stage
    that has no position holds everything, and so does a shard that is away, in the topics that the recorder reads. The topic
    `contexts` is never trimmed, others only when named."""

    def __init__(
        self,
        log: Log,
        catalog: AsyncEngine,
        shards: AnyShards,
        passed_by: Mapping[str, Sequence[str]],
        clock: Clock,
        retention_s: float,
        progress: Progress,
    ) -> None:
        if CONTEXTS in passed_by:
            raise ValueError("contexts are kept for ever: a screener that starts anew needs the newest of each kind")
        self._log = log
        self._catalog = catalog
        self._shards = shards
        self._passed_by = passed_by
        self._clock = clock
        self._retention_us = round(retention_s * 1_000_000)
        self._progress = progress
        self._away = ""

    async def run(self) -> None:
        """Runs until cancelled. Raises Unavailable when a database or the Log is away."""
        while True:
            await self.trim()
            await self._clock.sleep(EVERY_S)

    async def trim(self) -> int:
        """Drops what may go now; how many records that were. Safe to repeat and to run twice at once."""
        before_us = self._clock.now_us() - self._retention_us
        dropped = 0
        limits = await self._limits()
        for partition, before_offset in limits.items():
            dropped += await self._log.trim(partition, before_offset, before_us)
        async with transaction(self._catalog) as connection:
            for partition, before_offset in limits.items():
                place = {"topic": partition.topic, "number": partition.number, "offset": before_offset, "before_us": before_us}
                await connection.execute(text(_FORGET_DEAD), place)
        self._progress.handled_count += dropped
        self._progress.problem = self._away
        if dropped:
            _log.info("log trimmed", dropped=dropped)
        return dropped

    async def _limits(self) -> dict[Partition, int]:
        """For each partition the offset that everything to be dropped must be before."""
        topics = list(self._passed_by)
        recorded = await self._recorded(topics)
        async with transaction(self._catalog) as connection:
            stored = await _all_positions(connection, self._log.log_id, topics)
        limits = {}
        for partition, span in (await self._log.ends(topics)).items():
            stages = stored.get(partition, {})
            needed = [
                recorded.get(partition, NOWHERE) if stage == RECORD else stages.get(stage, NOWHERE)
                for stage in self._passed_by[partition.topic]
            ]
            limits[partition] = min((position.next for position in (*needed, *stages.values())), default=span.next)
        return limits

    async def _recorded(self, topics: Sequence[str]) -> dict[Partition, Position]:
        """The recorders' lowest position over all slots of all shards; none when a shard is away."""
        shards = self._shards.now

        async def read(shard: int, engine: AsyncEngine) -> dict[Partition, Position]:
            async with transaction(engine, READ_WITHIN_S) as connection:
                slots = shards.slots_of_shard(shard)
                return await positions.lowest(connection, RECORD, self._log.log_id, topics, slots)

        self._away = ""
        try:
            found = await shards.gather(read, shards.owning)
        except Unavailable as error:
            self._away = f"what is recorded is kept longer in the Log: {error.message}"
            return {}
        everywhere = set(found[0]).intersection(*found[1:])
        return {partition: min(shard[partition] for shard in found) for partition in everywhere}


async def _all_positions(connection: AsyncConnection, log_id: str, topics: Sequence[str]) -> dict[Partition, dict[str, Position]]:
    """Every stage's lowest position in the catalog database, by partition."""
    rows = await connection.execute(text(_STAGES), {"topics": list(topics)})
    found: dict[Partition, dict[str, Position]] = {}
    for stage in rows.scalars().all():
        for (_, partition), position in (await positions.read(connection, stage, log_id, topics)).items():
            stages = found.setdefault(partition, {})
            stages[stage] = min(position, stages.get(stage, position))
    return found


_STAGES = "SELECT DISTINCT stage FROM positions WHERE topic = ANY(CAST(:topics AS text[]))"

# A record that is gone from the Log cannot be buried again, so its place need not be known any longer.
_FORGET_DEAD = """
DELETE FROM dead_seen
WHERE topic = :topic AND partition = :number AND "offset" < :offset AND appended_at_us < :before_us
"""
