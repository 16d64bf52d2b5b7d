"""The arrow `screen`: accepted readings from the Log, flagged, back into the Log; one screened record for each accepted one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog

from ingest_svc.checkpoint import Checkpoint, Checkpoints
from ingest_svc.lane import Lane
from mesh.aliens import last_of_ours
from mesh.codec.dead_letter import dead_letter
from mesh.codec.log_records import Screened, read_screened, write_screened
from mesh.codec.stamp import read_source, write_conditions, write_source
from mesh.errors import Fault, Unavailable
from mesh.ports import Assigned, Clock, Consumer, Log, Objects, Partition, Record, Records, Revoked, Stored
from mesh.shards import first_error
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL, DEAD, SCREENED_FROM

STAGE = "screen"
TOPICS = (ACCEPTED, BACKFILL)
_log = structlog.get_logger()

Moved = Callable[[Partition, int], Awaitable[None]]
"""Tells that everything up to this offset of a source partition is screened and checkpointed, so that retention may know."""


@dataclass(frozen=True, slots=True)
class ScreenSettings:
    """A checkpoint after so many records or so long, whichever is first; records of a partition on their way at most."""

    checkpoint_records: int = 2_000
    checkpoint_s: float = 30.0
    most_in_flight: int = 64


@dataclass(slots=True, eq=False)
class _Work:
    """One partition that is ours: up to `emitted` its screened records were in the Log before, and `pending` are on their way."""

    lane: Lane
    emitted: int
    checkpoint_at_us: int
    folded: int = 0
    keeping: asyncio.Task[None] | None = None
    pending: deque[tuple[int, asyncio.Future[int]]] = field(default_factory=deque)


class Screen:
    """Consumes `accepted` (preferred) and `backfill` as a member of the group "screen".

    Each partition's state comes from its newest checkpoint and is folded, silently, up to the last source offset that its
    screened partition names; from there on each record is screened and appended. So whatever was killed, the same records follow
    with the same bytes; some MAY stand twice, which readers drop by their source offset. A record that cannot be read goes
    to `dead`, durable before the empty record that stands in its place.
    """

    def __init__(
        self,
        log: Log,
        objects: Objects,
        clock: Clock,
        progress: Progress,
        moved: Moved,
        settings: ScreenSettings | None = None,
    ) -> None:
        self._log = log
        self._objects = objects
        self._clock = clock
        self._progress = progress
        self._moved = moved
        self._settings = settings or ScreenSettings()
        self._checkpoints = Checkpoints(objects, log.log_id)

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises Unavailable when the Log is away, or
        Objects where a context is needed; Fault where the log has lost what the state must be made from."""
        try:
            async with self._log.consume(STAGE, TOPICS) as consumer, asyncio.TaskGroup() as keeping:
                await self._follow(consumer, keeping)
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    async def _follow(self, consumer: Consumer, keeping: asyncio.TaskGroup) -> None:
        mine: dict[Partition, _Work] = {}
        while True:
            under_way = any(work.pending for work in mine.values())
            match await consumer.next(0.05 if under_way else 1.0):
                case Assigned(partitions):
                    mine |= {partition: await self._begin(partition) for partition in partitions}
                    await consumer.seek({partition: mine[partition].lane.offset + 1 for partition in partitions})
                case Records(partition, records):
                    await self._screen(partition, mine[partition], records, keeping)
                case Revoked(partitions):
                    self._progress.left(partitions)
                    for partition in partitions:
                        mine.pop(partition, None)
            for partition, work in mine.items():
                await self._settle(partition, work, self._settings.most_in_flight)
                if not any(other.keeping and not other.keeping.done() for other in mine.values()):  # one after the other
                    await self._checkpoint_if_due(partition, work, keeping)

    async def _begin(self, partition: Partition) -> _Work:
        checkpoint = await self._checkpoints.newest(partition)
        last = await last_of_ours(self._log, _screened(partition))
        emitted = -1 if last is None else _source_offset(last)
        await self._must_fit(partition, checkpoint.offset, emitted)
        lane = Lane(checkpoint, self._objects, historical=partition.topic == BACKFILL)
        await lane.open()
        self._progress.started(partition, max(checkpoint.offset, emitted) + 1)
        return _Work(lane, emitted, self._clock.now_us())

    async def _must_fit(self, partition: Partition, folded: int, emitted: int) -> None:
        """Raises Fault unless the log still has what must be folded, and has ever had what was screened."""
        ends = (await self._log.ends([partition.topic]))[partition]
        where = f"{partition.topic}/{partition.number}"
        if ends.first > folded + 1:
            raise Fault(
                f"{where} begins at offset {ends.first}, but the newest usable checkpoint ends at {folded}: what lies between"
                " cannot be folded any more; restore that checkpoint's object"
            )
        had = max(folded, emitted)
        if ends.next <= had:
            raise Fault(
                f"{where} ends before offset {ends.next}, but was screened up to {had}: this log has lost records; restore it"
                " together with its checkpoints"
            )

    async def _screen(self, partition: Partition, work: _Work, records: Iterable[Stored], keeping: asyncio.TaskGroup) -> None:
        for stored in records:
            screened, problem = await work.lane.fold(stored)
            work.folded += 1
            if stored.offset > work.emitted:
                if problem:
                    await self._bury(partition, stored, problem)
                await self._emit(partition, work, stored, screened)
            if work.folded >= self._settings.checkpoint_records:
                await self._checkpoint(partition, work, keeping)

    async def _emit(self, partition: Partition, work: _Work, stored: Stored, screened: Screened) -> None:
        headers = dict(stored.record.headers) if len(screened.readings) else {}
        headers |= write_source(screened.source_offset, screened.previous_source_offset)
        headers |= write_conditions(len(screened.conditions))
        record = Record(write_screened(screened), headers)
        # Nothing may be appended behind a record that has failed, or readers meet a hole: so nothing waits between these two.
        await self._settle(partition, work, self._settings.most_in_flight - 1)
        delivery = await self._log.append(_screened(partition), record)
        delivery.add_done_callback(_heard)
        work.pending.append((stored.offset, delivery))

    async def _bury(self, partition: Partition, stored: Stored, problem: str) -> None:
        """The record stands in `dead` on return."""
        letter = dead_letter(STAGE, partition, stored, problem)
        delivery = await self._log.append(Partition(DEAD, partition.number), letter)
        await asyncio.shield(delivery)
        place = {"topic": partition.topic, "partition": partition.number, "offset": stored.offset}
        _log.warning("record cannot be screened", problem=problem, **place)

    async def _settle(self, partition: Partition, work: _Work, most: int) -> None:
        """Waits until at most `most` records are under way; raises what went wrong with any that has ended. When it returns,
        no record that is under way has failed."""
        while work.pending and (len(work.pending) > most or work.pending[0][1].done()):
            offset, delivery = work.pending.popleft()
            await asyncio.shield(delivery)
            self._progress.covered(partition, offset + 1, 1)

    async def _checkpoint_if_due(self, partition: Partition, work: _Work, keeping: asyncio.TaskGroup) -> None:
        if not work.folded:
            work.checkpoint_at_us = self._clock.now_us()
        elif self._clock.now_us() - work.checkpoint_at_us >= self._settings.checkpoint_s * 1_000_000:
            await self._checkpoint(partition, work, keeping)

    async def _checkpoint(self, partition: Partition, work: _Work, keeping: asyncio.TaskGroup) -> None:
        """Once all screened records up to here are durable. What is kept is a copy, so that screening goes on meanwhile; the one
        before must have been kept. The next is tried when it is due."""
        await self._settle(partition, work, 0)
        if work.keeping is not None:
            await work.keeping
        work.folded, work.checkpoint_at_us = 0, self._clock.now_us()
        work.keeping = keeping.create_task(self._keep(partition, await asyncio.to_thread(work.lane.checkpoint)))

    async def _keep(self, partition: Partition, checkpoint: Checkpoint) -> None:
        """While Objects or the positions are away screening goes on."""
        try:
            if await self._checkpoints.keep(partition, checkpoint):
                await self._moved(partition, checkpoint.offset)
        except Unavailable as error:
            _log.warning("checkpoint put off", topic=partition.topic, partition=partition.number, problem=error.message)
            self._progress.problem = f"checkpoint put off: {error.message}"


def _screened(partition: Partition) -> Partition:
    return Partition(SCREENED_FROM[partition.topic], partition.number)


def _source_offset(last: Stored) -> int:
    source = read_source(last.record.headers)
    return source[0] if source else read_screened(last.record.value).source_offset


def _heard(delivery: asyncio.Future[int]) -> None:
    """What failed is raised where it is waited for; a delivery that nobody waits for any more is no news."""
    if not delivery.cancelled():
        delivery.exception()
