"""The arrow `record`: screened records from the Log into the shards, each reading once, with its position and its count."""

import asyncio
from collections.abc import Sequence

import numpy as np

from mesh.ports import Assigned, Consumer, Log, Partition, Records, Revoked, Stored
from mesh.shards import AnyShards, first_error
from mesh.stages import Progress
from mesh.topics import SCREENED, SCREENED_BACKFILL
from query_svc.arrivals import cut
from query_svc.record_dead import MOST_IN_A_ROW, Bury
from query_svc.record_flush import Flush, fresh, make_flush
from query_svc.record_late import Late
from query_svc.record_slots import Had, find, together
from query_svc.record_write import Left, Write

STAGE = "record"
TOPICS = (SCREENED, SCREENED_BACKFILL)
WRITE_WITHIN_S = 5.0


class Record:
    """Consumes `screened` (preferred) and `screened_backfill` as a member of the group "record".

    One flush is one transaction per shard, all shards at once: it moves the positions of all slots of the shard from exactly
    the values that were read, writes the rows and counts them. So after a crash anywhere each slot goes on from its own
    position, and a record that a slot has had changes nothing there. Two workers on one partition: one of them ends with
    PositionLost. While a flush is written, the next one (and no more) is made ready.

    A shard that is away, or has not written its part of a flush within 5 s, and a slot that is frozen or not where the map says,
    are left out, while the others go on; they come back as record_late.py says. With no shard left the worker ends.

    A record that cannot be read is put into `dead` first, attributed by its headers, then passed by means of its header `source`
    (the offsets that its value would have told). Without that header the worker stops: our own screener writes it.
    """

    def __init__(self, log: Log, shards: AnyShards, progress: Progress, *, most_dead_in_a_row: int = MOST_IN_A_ROW) -> None:
        self._log = log
        self._shards = shards
        self._progress = progress
        self._most_dead = most_dead_in_a_row
        self._write = Write(STAGE, log.log_id)

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Fault at a hole in the screened records or for a row of unreadable ones, Unavailable when the Log or every
        shard is away."""
        self._hads: dict[Partition, Had] = {}
        self._bury = Bury(STAGE, self._log, self._most_dead)
        self._late = Late(self._log, self._shards, self._write, self._hads, (STAGE, TOPICS), self._progress)
        try:
            async with self._log.consume(STAGE, TOPICS) as consumer, asyncio.TaskGroup() as group:
                group.create_task(self._late.look())
                group.create_task(self._late.catch_up())
                await self._follow(consumer, group)
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    async def _follow(self, consumer: Consumer, group: asyncio.TaskGroup) -> None:
        writing = group.create_task(asyncio.sleep(0))
        while True:
            if self._late.done:
                await writing
                if places := self._late.take_back():
                    await consumer.seek(places)
            event = await consumer.next(1.0)
            if isinstance(event, Records):
                for run in cut(event.partition, event.records):
                    flush = await self._prepare(event.partition, run)
                    await writing
                    writing = group.create_task(self._written(flush))
                continue
            await writing
            if isinstance(event, Assigned):
                await self._begin(consumer, event.partitions)
            elif isinstance(event, Revoked):
                self._leave(event.partitions)

    async def _begin(self, consumer: Consumer, partitions: Sequence[Partition]) -> None:
        """Reads every slot's position from the shard that owns it, and goes on from the lowest of those that are farthest."""
        shards = self._shards.now
        asked = {shard: shards.slots_of_shard(shard) for shard in shards.owning if self._late.pauses.due(shard)}
        found = await find(shards, asked, STAGE, self._log.log_id, TOPICS)
        slots = np.array(sorted(found.writable), np.int64)
        self._late.leave_out(shards, Left(np.empty(0, np.int64), found.away))
        self._late.must_go_on([len(slots)])
        for partition in partitions:
            farthest = next(together(found.had(partition, slots, shards.slots)))
            self._hads[partition] = found.had(partition, farthest, shards.slots)
            self._progress.started(partition, self._hads[partition].next)
        await consumer.seek({partition: self._hads[partition].next for partition in partitions})

    def _leave(self, partitions: Sequence[Partition]) -> None:
        self._progress.left(partitions)
        for partition in partitions:
            self._hads.pop(partition, None)
        self._late.drop(partitions)
        self._bury.forget(partitions)

    async def _prepare(self, partition: Partition, run: Sequence[Stored]) -> Flush:
        """What cannot be recorded of the run is durable in `dead` on return."""
        had = self._hads[partition]
        arrivals = await fresh(partition, had, run)
        await self._bury.bury(partition, arrivals)
        return await make_flush(partition, had, run, arrivals, self._shards.now)

    async def _written(self, flush: Flush) -> None:
        """The flush is in every shard on return, but for what is left out."""
        left = await self._write.write(flush, WRITE_WITHIN_S)
        if len(left.slots):
            self._late.leave_out(flush.shards, left)
        self._progress.covered(flush.partition, flush.new.next, flush.record_count)
        self._late.tell()
