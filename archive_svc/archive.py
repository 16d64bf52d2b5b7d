"""The arrow `archive`: screened records from the Log into immutable objects, a manifest that names them, and the ledger."""

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.arrivals import Part, merge, take
from archive_svc.chunk import Chunk, Pending, plan
from archive_svc.chunks import STAGE, TOPICS, Chunks
from archive_svc.put import put_objects
from mesh.codec.dead_letter import dead_letter
from mesh.errors import Fault
from mesh.ports import Assigned, Clock, Consumer, Log, Objects, Partition, Records, Revoked, Stored
from mesh.positions import Position
from mesh.stages import Progress
from mesh.topics import DEAD

MOST_WAITING = 1_000_000
"""Readings that wait over all partitions, some 80 MB: beyond that the biggest chunk is cut early."""
IDLE_READINGS = 200
"""Readings that are worth objects of their own when nothing more comes for a while."""
IDLE_S = 1.0
_AT_ONCE = 256
_log = structlog.get_logger()


class Archive:
    """Consumes `screened` (preferred) and `screened_backfill` as a member of the group "archive". Readings wait by partition
    until there are `chunk_readings`, or the first has waited for `chunk_s` (the rule), or nothing came for a second and there
    are enough.

    Then the chunk is cut: what belongs to it is committed before anything is put, so that every later attempt makes the same
    objects. One object per region and UTC day of measured time is put (`by_json`: one for each sensor of it), then one manifest
    record each, then one catalog transaction enters the manifest's rows, counts the readings as archived and moves the position
    from exactly the value that was read. Two workers on one partition: one of them ends with PositionLost.

    A record that cannot be archived is put into `dead` first, attributed by its headers, then passed.
    """

    def __init__(
        self,
        log: Log,
        objects: Objects,
        catalog: AsyncEngine,
        progress: Progress,
        clock: Clock,
        chunk_s: float,
        chunk_readings: int,
        by_json: bool = False,
    ) -> None:
        self._log = log
        self._objects = objects
        self._chunks = Chunks(catalog, log.log_id)
        self._progress = progress
        self._clock = clock
        self._chunk_us = round(chunk_s * 1_000_000)
        self._idle_us = round(min(IDLE_S, chunk_s) * 1_000_000)
        self._chunk_readings = chunk_readings
        self._by_json = by_json
        self._hurried = False

    def hurry(self) -> None:
        """From now on everything is archived as soon as nothing more is at hand: for a drain, or a test that waits."""
        self._hurried = True

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Fault at a hole in the screened records, Unavailable when the database, the Log or the objects are away."""
        pending: dict[Partition, Pending] = {}
        async with self._log.consume(STAGE, TOPICS) as consumer:
            while True:
                match await consumer.next(self._patience_s(pending)):
                    case Assigned(partitions):
                        pending |= await self._begin(consumer, partitions)
                    case Records(partition, records):
                        await self._add(partition, pending[partition], records)
                        await self._close(pending, self._full(pending))
                        await self._close(pending, self._old(pending))
                    case Revoked(partitions):
                        self._progress.left(partitions)
                        for partition in partitions:
                            pending.pop(partition, None)
                    case None:
                        await self._close(pending, self._old(pending) + self._idle(pending))

    async def _begin(self, consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, Pending]:
        """A chunk that was cut is archived first, exactly as it was cut."""
        begun = {}
        for partition, (had, open_chunk) in (await self._chunks.begin(partitions)).items():
            self._progress.started(partition, had.next)
            if open_chunk is not None:
                await self._redo(open_chunk)
                had = open_chunk.new
            begun[partition] = Pending(had)
        await consumer.seek({partition: pending.had.next for partition, pending in begun.items()})
        return begun

    async def _add(self, partition: Partition, pending: Pending, records: Sequence[Stored]) -> None:
        taken = await asyncio.to_thread(take, partition, records, pending.new.source_offset)
        for stored, problem in taken.dead:
            await self._bury(partition, stored, problem)
        new = Position(records[-1].offset, taken.source_offset)
        pending.add(taken.part, new, len(records), self._clock.now_us())

    async def _close(self, pending: dict[Partition, Pending], partitions: Sequence[Partition]) -> None:
        """Everything that these partitions have waiting is archived on return."""
        for partition in partitions:
            done = pending[partition]
            chunk = Chunk(self._log.log_id, partition, done.had, done.new, self._clock.now_us(), self._by_json)
            if done.reading_count:
                await self._chunks.cut(chunk)
            await self._archive(chunk, await asyncio.to_thread(done.all), done.record_count)
            pending[partition] = Pending(done.new)

    async def _redo(self, chunk: Chunk) -> None:
        """What another attempt has cut is archived on return."""
        had, parts, record_count = chunk.had, list[Part](), 0
        while had.offset < chunk.new.offset:
            found = await self._log.read(chunk.partition, had.next, _AT_ONCE)
            records = [stored for stored in found if stored.offset <= chunk.new.offset]
            if not records:
                break
            taken = await asyncio.to_thread(take, chunk.partition, records, had.source_offset)
            parts.append(taken.part)
            record_count += len(records)
            had = Position(records[-1].offset, taken.source_offset)
        if had != chunk.new:
            where = f"{chunk.partition.topic}/{chunk.partition.number}"
            raise Fault(f"the chunk of {where} from {chunk.first_offset} ended at {chunk.new}, now at {had}: records are missing")
        await self._archive(chunk, await asyncio.to_thread(merge, parts), record_count)

    async def _archive(self, chunk: Chunk, part: Part, record_count: int) -> None:
        rows = await put_objects(self._objects, chunk, plan(chunk, part))
        await self._chunks.finish(chunk, rows, part.counts)
        self._progress.covered(chunk.partition, chunk.new.next, record_count)

    async def _bury(self, partition: Partition, stored: Stored, problem: str) -> None:
        """The record is durable in `dead` on return. Twice after a crash: `count` knows it by its place."""
        place = {"topic": partition.topic, "partition": partition.number, "offset": stored.offset}
        _log.warning("record buried", stage=STAGE, problem=problem, **place)
        letter = dead_letter(STAGE, partition, stored, problem)
        await (await self._log.append(Partition(DEAD, partition.number), letter))

    def _full(self, pending: dict[Partition, Pending]) -> list[Partition]:
        """Those with enough readings, and the biggest while all together have too many."""
        full = [partition for partition, waiting in pending.items() if waiting.reading_count >= self._chunk_readings]
        rest = sorted((pending[partition].reading_count, partition) for partition in pending if partition not in full)
        while rest and sum(count for count, _ in rest) > MOST_WAITING:
            full.append(rest.pop()[1])
        return full

    def _old(self, pending: dict[Partition, Pending]) -> list[Partition]:
        """Those whose first record waits for so long that the rule says: now."""
        now_us = self._clock.now_us()
        return [
            partition
            for partition, waiting in pending.items()
            if waiting.since_us is not None and not 0 <= now_us - waiting.since_us < self._chunk_us
        ]

    def _idle(self, pending: dict[Partition, Pending]) -> list[Partition]:
        """Those to which nothing came for a while though nothing was in the way, if it is worth it, or when there is hurry."""
        now_us = self._clock.now_us()
        return [
            partition
            for partition in sorted(set(pending) - set(self._old(pending)))
            if (waiting := pending[partition]).since_us is not None
            and (self._hurried or (_is_worth_it(waiting) and now_us - waiting.heard_us >= self._idle_us))
        ]

    def _patience_s(self, pending: dict[Partition, Pending]) -> float:
        """How long to wait for more before something is due."""
        now_us = self._clock.now_us()
        due_us = [waiting.since_us + self._chunk_us for waiting in pending.values() if waiting.since_us is not None]
        wait_s = min((at_us - now_us for at_us in due_us), default=1_000_000) / 1_000_000
        return min(max(wait_s, 0.01), 0.02 if self._hurried else min(1.0, self._idle_us / 1_000_000))


def _is_worth_it(waiting: Pending) -> bool:
    """Enough for objects; records without any reading need none."""
    return not waiting.reading_count or waiting.reading_count >= IDLE_READINGS
