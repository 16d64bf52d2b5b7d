"""How far behind is each stage of the pipeline, and up to when can everything that was acknowledged be read?"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import positions, stages
from mesh.ports import Clock, Ends, Log, Partition
from mesh.positions import Position
from mesh.shards import transaction
from mesh.stages import Heard
from mesh.topics import ACCEPTED, BACKFILL, DEAD, REFUSED, RESTORED, SCREENED, SCREENED_BACKFILL, SILENCE, SOURCE_OF
from query_svc.backlog import Ages, Nexts, screened_until, told, waiting
from query_svc.recorded import READ_WITHIN_S, Recorded

STALE_AFTER_US = 5_000_000
ANSWER_KEPT_US = 1_000_000

_LANES = (ACCEPTED, BACKFILL)
_SCREENED = (SCREENED, SCREENED_BACKFILL)
SOURCES: Mapping[str, tuple[str, ...]] = {
    "accept": (),
    "count": (*_LANES, REFUSED, DEAD),
    "screen": _LANES,
    "record": _SCREENED,
    "sight": (*_SCREENED, RESTORED),
}
"""The stages that bring a reading to the shards, in the order of the pipeline, and the topics that each reads."""

EVERY_STAGE: Mapping[str, tuple[str, ...]] = {
    **SOURCES,
    "archive": _SCREENED,
    "publish": (*_SCREENED, SILENCE),
    "silence": (SCREENED,),
    "record_restored": (RESTORED,),
    "losers_export": (),
    "board": (),
    "raise_alert": (),
    "notify": (),
    "retain": (),
}
"""And those that archive, alert, show and trim."""

_IN_CATALOG = ("count", "sight", "archive", "publish")
_BY_THEIR_WORD = ("record", "record_restored", "silence")


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage: records waiting for it, the age of the oldest, what it handles, and why it is not healthy (empty: it is)."""

    stage: str
    backlog_count: int
    lag_us: int
    rate_per_s: float
    problem: str


@dataclass(frozen=True, slots=True)
class Status:
    """All stages in order; `record` is that of the shards that answer, and names the others. `readable_us`: what was acknowledged
    before it can be read; None: a shard is away, nobody knows."""

    stages: tuple[StageStatus, ...]
    readable_us: int | None


class PipelineStatus:
    """Log ends minus positions, plus heartbeats. Nothing is scanned, and any number of callers cause one look a second."""

    def __init__(
        self,
        log: Log,
        catalog: AsyncEngine,
        recorded: Recorded,
        clock: Clock,
        sources: Mapping[str, tuple[str, ...]] = SOURCES,
    ) -> None:
        """`sources`: the stages that this deployment has, and the topics that each reads. Others show only while they tell of a
        problem."""
        self._log = log
        self._sources = sources
        self._catalog = catalog
        self._recorded = recorded
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: tuple[int, Status] | None = None
        self._ages = Ages(log)
        self._readable_us = 0

    async def status(self) -> Status:
        """At most one second old. Raises Unavailable when the Log or the catalog database is away."""
        async with self._lock:
            now_us = self._clock.now_us()
            if self._last is None or not 0 <= now_us - self._last[0] < ANSWER_KEPT_US:
                self._last = (now_us, await self._look(now_us))
            return self._last[1]

    async def _look(self, now_us: int) -> Status:
        """`now_us` is before the ends are read: what was acknowledged until then lies before the ends."""
        ends = await self._log.ends(sorted({topic for topics in self._sources.values() for topic in topics}))
        async with transaction(self._catalog, READ_WITHIN_S) as connection:
            heard = await stages.read(connection)
        nexts = {stage: await self._catalog_nexts(stage) for stage in _IN_CATALOG if stage in self._sources}
        nexts["screen"] = await self._screen_nexts(heard, ends)
        nexts |= {stage: told(heard, stage) for stage in _BY_THEIR_WORD}
        ages = self._ages
        ages.look(now_us)
        recorded, away = await self._recorded.positions()
        nexts["record"] = {partition: position.next for partition, position in recorded.items()}
        if not away:
            self._readable_us = max(self._readable_us, await _readable_us(recorded, ends, ages, now_us))
        beats = {stage: [beat for beat in heard if beat.stage == stage] for stage in self._sources}
        problems = {stage: _problem(beats[stage], now_us) for stage in self._sources}
        problems["record"] = "; ".join(away.values()) or problems["record"]
        found = []
        for stage, topics in self._sources.items():
            mine = {partition: end for partition, end in ends.items() if partition.topic in topics}
            places = waiting(mine, nexts.get(stage, {}))
            backlog = sum(ends[partition].next - offset for partition, offset in places.items())
            rate = sum(beat.rate_per_s for beat in beats[stage] if not _stale(beat, now_us))
            lag_us, _ = await ages.oldest_us(places)
            found.append(StageStatus(stage, backlog, lag_us, rate, problems[stage]))
        others = {beat.stage: beat for beat in heard if beat.stage not in self._sources and beat.problem}
        found += [StageStatus(beat.stage, 0, 0, beat.rate_per_s, beat.problem) for beat in others.values()]
        return Status(tuple(found), None if away else self._readable_us or None)

    async def _catalog_nexts(self, stage: str) -> Nexts:
        async with transaction(self._catalog, READ_WITHIN_S) as connection:
            found = await positions.read(connection, stage, self._log.log_id, self._sources[stage])
        return {partition: position.next for (_, partition), position in found.items()}

    async def _screen_nexts(self, heard: Sequence[Heard], ends: Mapping[Partition, Ends]) -> Nexts:
        """By the screeners' own word, and where there is none by what they have put out."""
        nexts = told(heard, "screen")
        silent = [partition for partition in ends if partition.topic in _LANES and partition not in nexts]
        return nexts | await screened_until(self._log, silent)


async def _readable_us(recorded: Mapping[Partition, Position], ends: Mapping[Partition, Ends], ages: Ages, now_us: int) -> int:
    """When the oldest unrecorded record was appended: whatever is not readable was acknowledged later. 0: not all could be
    looked at in time, so what was known before still holds and nothing more."""
    lanes = {partition: end for partition, end in ends.items() if partition.topic in _LANES}
    nexts = {
        Partition(SOURCE_OF[partition.topic], partition.number): position.source_offset + 1
        for partition, position in recorded.items()
        if partition.topic in _SCREENED
    }
    age_us, complete = await ages.oldest_us(waiting(lanes, nexts))
    return now_us - age_us if complete else 0


def _stale(beat: Heard, now_us: int) -> bool:
    return now_us - beat.at_us > STALE_AFTER_US


def _problem(beats: Sequence[Heard], now_us: int) -> str:
    if not beats:
        return "no sign of life of any worker"
    for beat in beats:
        if _stale(beat, now_us):
            return f"no sign of life for {(now_us - beat.at_us) / 1e6:.0f} s (worker {beat.worker})"
    return next((beat.problem for beat in beats if beat.problem), "")
