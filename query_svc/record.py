"""The arrow `record`: screened records from the Log into the shards, each reading once, with its position and its count."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import ledger, positions
from mesh.codec.dead_letter import dead_letter
from mesh.errors import Fault
from mesh.ports import Assigned, Consumer, Log, Partition, Records, Revoked, Stored
from mesh.positions import NOWHERE, Position
from mesh.shards import Shards, first_error, transaction
from mesh.stages import Progress
from mesh.topics import DEAD, SCREENED, SCREENED_BACKFILL
from query_svc.arrivals import Arrival, cut, read_arrivals
from query_svc.rows import STORED, Arrived, Rows, split
from query_svc.seen import Seen
from query_svc.store import keep_losers, store

STAGE = "record"
TOPICS = (SCREENED, SCREENED_BACKFILL)
_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Had:
    """What the shards have of one partition. `offset`, `source`: each slot's position; `begun`: its source offset when the
    partition became ours, up to which it skips readings; `last_source`: of the last record that was read."""

    offset: NDArray[np.int64]
    source: NDArray[np.int64]
    begun: NDArray[np.int64]
    last_source: int


@dataclass(frozen=True, slots=True, eq=False)
class Flush:
    """What goes into the shards at once, and the position that it brings them to."""

    partition: Partition
    had: Had
    parts: Mapping[int, Rows]
    new: Position
    record_count: int


class Record:
    """Consumes `screened` (preferred) and `screened_backfill` as a member of the group "record".

    One flush is one transaction per shard, all shards at once: it moves the positions of all slots of the shard from exactly
    the values that were read, writes the rows and counts them. So after a crash anywhere each slot goes on from its own
    position, and a record that a slot has had changes nothing there. Two workers on one partition: one of them ends with
    PositionLost. While a flush is written, the next one (and no more) is made ready.

    A record that cannot be read is put into `dead` first, attributed by its headers, then passed by means of its header `source`
    (the offsets that its value would have told). Without that header the worker stops: our own screener writes it.
    """

    def __init__(self, log: Log, shards: Shards, progress: Progress) -> None:
        self._log = log
        self._shards = shards
        self._progress = progress
        self._seen = {shard: Seen() for shard in shards.engines}
        self._expect_known = dict.fromkeys(shards.engines, False)

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Fault at a hole in the screened records, Unavailable when a shard or the Log is away."""
        try:
            async with self._log.consume(STAGE, TOPICS) as consumer, asyncio.TaskGroup() as group:
                await self._follow(consumer, group)
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    async def _follow(self, consumer: Consumer, group: asyncio.TaskGroup) -> None:
        had: dict[Partition, Had] = {}
        writing = group.create_task(asyncio.sleep(0))
        while True:
            event = await consumer.next(1.0)
            if isinstance(event, Records):
                for run in cut(event.partition, event.records):
                    flush = await self._prepare(event.partition, had[event.partition], run)
                    await writing
                    writing = group.create_task(self._write(flush))
                continue
            await writing
            if isinstance(event, Assigned):
                had |= await self._begin(consumer, event.partitions)
            elif isinstance(event, Revoked):
                self._progress.left(event.partitions)
                for partition in event.partitions:
                    had.pop(partition, None)

    async def _begin(self, consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, Had]:
        """Reads every slot's position from the shard that owns it, and goes on from the lowest."""
        owners = self._shards.owner.tolist()

        async def read(_: int, engine: AsyncEngine) -> dict[tuple[int, Partition], Position]:
            async with transaction(engine) as connection:
                return await positions.read(connection, STAGE, self._log.log_id, TOPICS)

        stored = dict(zip(self._shards.engines, await self._shards.gather(read), strict=True))
        begun = {}
        for partition in partitions:
            found = [stored[shard].get((slot, partition), NOWHERE) for slot, shard in enumerate(owners)]
            lowest = min(found)
            offset, source = np.array(found, np.int64).T.copy()
            begun[partition] = Had(offset, source, source.copy(), lowest.source_offset)
            self._progress.started(partition, lowest.next)
        await consumer.seek({partition: int(had.offset.min()) + 1 for partition, had in begun.items()})
        return begun

    async def _prepare(self, partition: Partition, had: Had, run: Sequence[Stored]) -> Flush:
        """What cannot be recorded of the run is durable in `dead` on return."""
        arrived: list[Arrived] = []
        for arrival in await asyncio.to_thread(read_arrivals, partition, run):
            if arrival.source_offset <= had.last_source:
                continue
            if arrival.previous_source_offset != had.last_source:
                where = f"{partition.topic}/{partition.number} offset {arrival.stored.offset}"
                follows = f"follows source offset {arrival.previous_source_offset}, but {had.last_source} was had last"
                raise Fault(f"{where} {follows}: records are missing")
            had.last_source = arrival.source_offset
            if arrival.content is None:
                await self._bury(partition, arrival)
            else:
                arrived.append(arrival.content)
        parts = await asyncio.to_thread(split, arrived, had.begun, self._shards)
        return Flush(partition, had, parts, Position(run[-1].offset, had.last_source), len(run))

    async def _write(self, flush: Flush) -> None:
        """The flush is in every shard on return."""
        had, new = flush.had, flush.new
        behind = had.offset < new.offset

        async def write(shard: int, engine: AsyncEngine) -> None:
            slots = [slot for slot in self._shards.slots_of_shard(shard) if behind[slot]]
            expected = {slot: Position(int(had.offset[slot]), int(had.source[slot])) for slot in slots}
            if expected:
                await self._write_shard(shard, engine, flush, expected)

        await self._shards.gather(write, self._shards.owning)
        had.offset[behind], had.source[behind] = new
        self._progress.covered(flush.partition, new.next, flush.record_count)

    async def _write_shard(self, shard: int, engine: AsyncEngine, flush: Flush, expected: dict[int, Position]) -> None:
        """One transaction. What is remembered beside the database is remembered only once it is committed."""
        rows = flush.parts[shard]
        async with transaction(engine) as connection:
            await positions.move(connection, STAGE, self._log.log_id, flush.partition, expected, flush.new)
            if not len(rows):
                return
            outcome = await store(connection, rows, self._expect_known[shard])
            await keep_losers(connection, rows, outcome, self._log.log_id, flush.partition)
            entered = await self._seen[shard].enter(connection, rows, outcome)
            await ledger.add(connection, rows.counts(outcome))
        self._seen[shard].remember(entered)
        self._expect_known[shard] = bool((outcome[rows.head] != STORED).any())

    async def _bury(self, partition: Partition, arrival: Arrival) -> None:
        """The record is durable in `dead` on return. Twice after a crash: `count` knows it by its place."""
        place = {"topic": partition.topic, "partition": partition.number, "offset": arrival.stored.offset}
        _log.warning("record buried", problem=arrival.problem, **place)
        letter = dead_letter(STAGE, partition, arrival.stored, arrival.problem)
        await (await self._log.append(Partition(DEAD, partition.number), letter))
