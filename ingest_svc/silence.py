"""The arrow `silence`: who should speak and does not, by the clock of arrival, from screened into the topic `silence` (law 6)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc.silence_catalog import watched_by
from ingest_svc.silence_reach import Reach
from ingest_svc.silence_state import SilenceSpans, Speakers
from ingest_svc.silence_tables import read_catalog, read_heard, write_heard
from mesh import positions
from mesh.aliens import last_of_ours, without_aliens
from mesh.codec.log_records import ContextChange, ContextKind, read_accepted
from mesh.codec.spoken import read_spoken
from mesh.codec.stamp import read_source, write_conditions
from mesh.codec.tasks import Task, write_task
from mesh.errors import InvalidArgument
from mesh.ports import Assigned, Clock, Consumer, Log, Objects, Partition, Record, Records, Revoked, Stored
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import CONTEXTS, SCREENED, SILENCE, partition_of

STAGE = "silence"
TOPICS = (SCREENED, CONTEXTS)
THE_CONTEXTS = Partition(CONTEXTS, 0)
THREAD_FROM_BYTES = 200_000
THREAD_FROM_SENSORS = 20_000
KEPT_A_SECOND = 10_000  # sensors, of 24 bytes each: so the more there are, the more seconds are heard again after a crash,
LONGEST_KEEP_S = 60.0  # up to this
_log = structlog.get_logger()
_Positions = dict[Partition, Position]


@dataclass(frozen=True, slots=True)
class SilenceTimes:
    """How often is judged, and how often kept at most; `away_s`: when nobody could be heard for longer, waiting begins anew."""

    tick_s: float = 1.0
    keep_s: float = 1.0
    away_s: float = 10.0


@dataclass(slots=True, eq=False)
class _Duty:
    """What the one at work knows. Of each partition: everything up to `had` was heard, everything up to `kept` is also kept."""

    speakers: Speakers
    reach: Reach
    catalog: ContextChange | None
    had: _Positions
    kept: _Positions
    tick_at_us: int = 0
    keep_at_us: int = 0
    handled: int = 0


class Silence:
    """One worker at a time: it has the first partition of `contexts` as a member of the group "silence", and listens to all of
    `screened` (the live lane). Gateways and sensors that were silent for too long get a condition, RAISED once, and CLEARED when
    they speak again, are not watched any more, or are forgotten.

    Who was heard, which episodes last and the positions are kept together, in one transaction. An episode is kept first, then
    told, then kept as told; an end is told before it is kept: so whatever crashes, each is told at least once, with the same
    beginning, and no end is forgotten. While we, screening or whoever accepts readings was away nobody could be heard: then
    waiting begins anew, so a stop is no silence. A first start begins at the end of the Log.
    """

    def __init__(
        self,
        log: Log,
        objects: Objects,
        catalog: AsyncEngine,
        progress: Progress,
        clock: Clock,
        spans: SilenceSpans,
        times: SilenceTimes | None = None,
    ) -> None:
        self._log = log
        self._objects = objects
        self._catalog = catalog
        self._progress = progress
        self._clock = clock
        self._spans = spans
        self._times = times or SilenceTimes()
        self.judged_us = 0
        """Everything that was silent for too long by then is told, by this worker's own word."""

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Fault where the catalog's object is wrong, Unavailable when the Log, the database or Objects is away."""
        async with self._log.consume(STAGE, [CONTEXTS]) as contexts:
            while True:
                match await contexts.next(1.0):
                    case Assigned(partitions):
                        await contexts.seek(dict.fromkeys(partitions, 0))
                        if THE_CONTEXTS in partitions:
                            await self._listen(contexts)

    async def _listen(self, contexts: Consumer) -> None:
        """Until another worker takes over."""
        duty = await self._begin()
        await contexts.seek({THE_CONTEXTS: duty.had[THE_CONTEXTS].next})
        async with self._log.consume(None, [SCREENED]) as consumer:
            while True:
                wait_s = (duty.tick_at_us - self._clock.now_us()) / 1e6
                match await consumer.next(min(self._times.tick_s, max(0.0, wait_s))):
                    case Assigned(partitions):
                        await consumer.seek({partition: duty.had[partition].next for partition in partitions})
                    case Records(partition, records):
                        await self._hear(duty, partition, records)
                if self._clock.now_us() >= duty.tick_at_us:
                    if not await self._follow(contexts, duty):
                        return
                    await self._tick(duty)
                    duty.tick_at_us = self._clock.now_us() + round(self._times.tick_s * 1e6)

    async def _begin(self) -> _Duty:
        now_us = self._clock.now_us()
        async with transaction(self._catalog) as connection:
            stored = await positions.read(connection, STAGE, self._log.log_id, TOPICS)
            catalog = await read_catalog(connection)
            gateways, silent = await read_heard(connection)
        partitions = [Partition(SCREENED, number) for number in range(self._log.partition_count)]
        kept = {partition: stored.get((NO_SLOT, partition), NOWHERE) for partition in (*partitions, THE_CONTEXTS)}
        had = {one: at if one.topic == CONTEXTS or at != NOWHERE else await self._end(one) for one, at in kept.items()}
        speakers = Speakers(self._spans, await watched_by(catalog, self._objects), now_us)
        speakers.restore(gateways, silent, now_us)
        for partition in partitions:
            self._progress.started(partition, had[partition].next)
        return _Duty(speakers, Reach(self._log, self._catalog, self._clock, self._times.away_s), catalog, had, kept)

    async def _end(self, partition: Partition) -> Position:
        last = await last_of_ours(self._log, partition)
        return NOWHERE if last is None else Position(last.offset, _source_offset(last))

    async def _hear(self, duty: _Duty, partition: Partition, records: Sequence[Stored]) -> None:
        source_offset = duty.had[partition].source_offset
        for stored in without_aliens(partition, records):
            source_offset = max(source_offset, _source_offset(stored))
            if "gateway" not in stored.record.headers:
                continue
            value = stored.record.value
            try:
                spoken = await asyncio.to_thread(read_spoken, value) if len(value) > THREAD_FROM_BYTES else read_spoken(value)
            except InvalidArgument:  # to give it up is the recorder's business
                continue
            if spoken.gateway_id:
                duty.speakers.hear(spoken)
        duty.had[partition] = Position(records[-1].offset, source_offset)
        duty.handled += len(records)

    async def _follow(self, contexts: Consumer, duty: _Duty) -> bool:
        """Takes over what changed in the catalog; False: another worker takes over from us."""
        newest = duty.catalog
        while event := await contexts.next(0):
            match event:
                case Assigned(partitions):
                    await contexts.seek(dict.fromkeys(partitions, 0))
                case Records(partition, records):
                    newest = _newest_catalog(newest, records)
                    duty.had[partition] = Position(records[-1].offset, -1)
                case Revoked(partitions) if THE_CONTEXTS in partitions:
                    self._progress.left(list(self._progress.next_offset))
                    return False
        if newest is not duty.catalog:
            duty.speakers.watch(await watched_by(newest, self._objects), self._clock.now_us())
            duty.catalog = newest
        return True

    async def _tick(self, duty: _Duty) -> None:
        heard = {partition.number: at.source_offset for partition, at in duty.had.items() if partition.topic == SCREENED}
        if await duty.reach.look(heard):
            is_big = duty.speakers.watched_count >= THREAD_FROM_SENSORS
            until_us = duty.reach.until_us
            await asyncio.to_thread(duty.speakers.judge, until_us) if is_big else duty.speakers.judge(until_us)
        else:
            until_us = 0
            duty.speakers.begin_anew(self._clock.now_us())
        duty.speakers.forget(self._clock.now_us())
        ended, untold = duty.speakers.ended, duty.speakers.untold()
        await self._tell(ended)
        if ended or untold or self._clock.now_us() >= duty.keep_at_us:
            await self._keep(duty)
        if untold:
            await self._tell(untold)
            duty.speakers.told()
            await self._keep(duty)
        self.judged_us = max(self.judged_us, until_us)

    async def _tell(self, tasks: Sequence[Task]) -> None:
        """All stand in `silence` on return."""
        deliveries = []
        for task in tasks:
            number = partition_of(task.region, task.gateway_id, self._log.partition_count)
            delivery = await self._log.append(Partition(SILENCE, number), Record(write_task(task), write_conditions(1)))
            delivery.add_done_callback(_heard)
            deliveries.append(delivery)
            _log.info("silence", condition=task.condition.condition_id, change=task.condition.change.name)
        for delivery in deliveries:
            await asyncio.shield(delivery)

    async def _keep(self, duty: _Duty) -> None:
        """All of what is known is durable on return, together with the positions."""
        moved = sorted(partition for partition, at in duty.had.items() if at != duty.kept[partition])
        is_big = duty.speakers.watched_count >= THREAD_FROM_SENSORS
        changes = await asyncio.to_thread(duty.speakers.changes) if is_big else duty.speakers.changes()
        async with transaction(self._catalog) as connection:
            for partition in moved:
                expected = {NO_SLOT: duty.kept[partition]}
                await positions.move(connection, STAGE, self._log.log_id, partition, expected, duty.had[partition])
            await write_heard(connection, changes, duty.catalog if THE_CONTEXTS in moved else None)
        duty.kept = dict(duty.had)
        duty.speakers.kept()
        duty.speakers.ended = []
        for partition in moved:
            if partition.topic == SCREENED:
                self._progress.covered(partition, duty.had[partition].next, duty.handled)
                duty.handled = 0
        keep_s = max(self._times.keep_s, min(LONGEST_KEEP_S, duty.speakers.watched_count / KEPT_A_SECOND))
        duty.keep_at_us = self._clock.now_us() + round(keep_s * 1e6)


def _newest_catalog(known: ContextChange | None, records: Sequence[Stored]) -> ContextChange | None:
    for stored in records:
        try:
            change = read_accepted(stored.record.value)
        except InvalidArgument as error:  # whoever wrote it, it is no context
            _log.warning("record of contexts passed by", offset=stored.offset, problem=error.message)
            continue
        if isinstance(change, ContextChange) and change.kind == ContextKind.CATALOG:
            known = change if known is None or change.version > known.version else known
    return known


def _source_offset(ours: Stored) -> int:
    source = read_source(ours.record.headers)
    return -1 if source is None else source[0]


def _heard(delivery: asyncio.Future[int]) -> None:
    """What failed is raised where it is waited for; a delivery that nobody waits for any more is no news."""
    if not delivery.cancelled():
        delivery.exception()
