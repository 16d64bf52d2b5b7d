"""When is an hour of arrival final? Fences it 60 s after its end and settles it once every stage has passed the fence (law 1)."""

import json
from collections.abc import Mapping

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import positions
from mesh.codec.stamp import HOUR_US
from mesh.errors import Unavailable
from mesh.ports import Clock, Ends, Log, Partition
from mesh.shards import transaction
from mesh.topics import ACCEPTED, BACKFILL, DEAD, REFUSED
from query_svc.archived import Archived
from query_svc.recorded import Recorded, passed

FENCED_AFTER_US = HOUR_US + 60_000_000
EVERY_US = 10_000_000
AWAY_US = 60_000_000
MOST_HOURS = 100
COUNT_STAGE = "count"
_log = structlog.get_logger()


class Fences:
    """Steps of an hour in hour_fences: entered by `count`; `ends` = the ends of accepted, backfill and refused at a time when
    the hour was over for 60 s (nothing of it is appended any more); `dead_ends` = the ends of `dead` once the recorders and,
    where there is one (`archived`), the archive have passed `ends` (who gives a record up buries it before passing it); `settled`
    once `count` has passed both. Each step is safe to repeat, and several processes may take it."""

    def __init__(self, log: Log, catalog: AsyncEngine, recorded: Recorded, clock: Clock, *, archived: bool = False) -> None:
        self._log = log
        self._catalog = catalog
        self._recorded = recorded
        self._archived = Archived(catalog, log.log_id, clock) if archived else None
        self._clock = clock
        self._next_us = 0

    async def go_on(self) -> None:
        """Takes the steps that are due, at most every 10 s. A shard that is away leaves its hours for a minute later."""
        if self._clock.now_us() < self._next_us:
            return
        self._next_us = self._clock.now_us() + EVERY_US
        try:
            await self.step()
        except Unavailable as error:
            self._next_us += AWAY_US
            _log.warning("hours not settled", problem=error.message)

    async def step(self) -> None:
        """Takes every step that is due now, of at most 100 hours, the oldest first."""
        over_us = self._clock.now_us() - FENCED_AFTER_US
        async with transaction(self._catalog) as connection:
            rows = (await connection.execute(text(_OPEN), {"over_us": over_us, "most": MOST_HOURS})).all()
        if not rows:
            return
        if any(ends is None for _, ends, _ in rows):
            ends = _write(await self._log.ends((ACCEPTED, BACKFILL, REFUSED)))
            await self._set(_SET_ENDS, [hour_us for hour_us, known, _ in rows if known is None], ends)
        await self._bound_dead({hour_us: _read(ends) for hour_us, ends, dead in rows if ends is not None and dead is None})
        await self._settle({hour_us: _read(ends) | _read(dead) for hour_us, ends, dead in rows if ends and dead is not None})

    async def _bound_dead(self, fenced: Mapping[int, Mapping[Partition, int]]) -> None:
        if not fenced:
            return
        stages = [await self._recorded.offsets()] + ([await self._archived.offsets()] if self._archived else [])
        hours = [
            hour_us for hour_us, ends in fenced.items() if all(passed(_without_refused(ends), offsets) for offsets in stages)
        ]
        if hours:
            await self._set(_SET_DEAD_ENDS, hours, _write(await self._log.ends((DEAD,))))

    async def _settle(self, bounded: Mapping[int, Mapping[Partition, int]]) -> None:
        if not bounded:
            return
        counted = await read_counted(self._catalog, self._log.log_id)
        await self._set(_SETTLE, [hour_us for hour_us, ends in bounded.items() if passed(ends, counted)], None)

    async def _set(self, statement: str, hours: list[int], ends: str | None) -> None:
        arguments = {"hours": hours} if ends is None else {"hours": hours, "ends": ends}
        async with transaction(self._catalog) as connection:
            await connection.execute(text(statement), arguments)


async def read_counted(catalog: AsyncEngine, log_id: str) -> dict[Partition, int]:
    """The last offset that `count` has counted in each of its partitions; one that it has not begun is missing."""
    async with transaction(catalog) as connection:
        found = await positions.read(connection, COUNT_STAGE, log_id, (ACCEPTED, BACKFILL, REFUSED, DEAD))
    return {partition: position.offset for (_, partition), position in found.items()}


def last_offsets(ends: Mapping[Partition, Ends]) -> dict[Partition, int]:
    """The last offset of each partition; -1 where there is none."""
    return {partition: span.next - 1 for partition, span in ends.items()}


def _without_refused(offsets: Mapping[Partition, int]) -> dict[Partition, int]:
    return {partition: offset for partition, offset in offsets.items() if partition.topic != REFUSED}


def _write(ends: Mapping[Partition, Ends]) -> str:
    return json.dumps([[*partition, offset] for partition, offset in last_offsets(ends).items()])


def _read(ends: list[tuple[str, int, int]]) -> dict[Partition, int]:
    return {Partition(topic, number): offset for topic, number, offset in ends}


_OPEN = """
SELECT hour_us, ends, dead_ends FROM hour_fences WHERE NOT settled AND hour_us <= :over_us ORDER BY hour_us LIMIT :most
"""
_SET_ENDS = """
UPDATE hour_fences SET ends = CAST(:ends AS jsonb) WHERE hour_us = ANY(CAST(:hours AS bigint[])) AND ends IS NULL
"""
_SET_DEAD_ENDS = """
UPDATE hour_fences SET dead_ends = CAST(:ends AS jsonb) WHERE hour_us = ANY(CAST(:hours AS bigint[])) AND dead_ends IS NULL
"""
_SETTLE = "UPDATE hour_fences SET settled = true WHERE hour_us = ANY(CAST(:hours AS bigint[]))"
