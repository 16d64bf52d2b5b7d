"""How do slots come back that were left out? From their own positions, beside the others, until they are close (law 13)."""

import asyncio
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mesh.deadline import within
from mesh.errors import PositionLost, Unavailable
from mesh.ports import Log, Partition, Stored
from mesh.shards import AnyShards, Shards
from mesh.stages import Progress
from query_svc.arrivals import cut
from query_svc.record_flush import Flush, fresh, make_flush
from query_svc.record_pause import Pauses
from query_svc.record_slots import CLOSE, LOOK_WITHIN_S, Found, Had, Slots, find, together
from query_svc.record_write import Left, Write

LOOK_EVERY_S = 1.0
LATE_WITHIN_S = 10.0
READ_RECORDS = 1_000
MOST_LOST = 3


@dataclass(slots=True, eq=False)
class Trip:
    """Slots of one partition on their way to the others. `done`: they are close."""

    partition: Partition
    had: Had
    done: bool = False


class Late:
    """Looks once a second for slots that are left out: where the newest map says, and only where they may be written. Trips bring
    on those that are found, the one that is nearest to the others first, one delivery at a time: a shard that has much to catch
    up keeps no other waiting, and memory holds one delivery more. A trip reads the Log without the group, and never beyond what
    the others have had: what cannot be recorded there is buried already.

    `hads`: of all partitions of the recorder, which tells what it leaves out (`leave_out`) and takes back what is `done`.
    """

    def __init__(
        self,
        log: Log,
        shards: AnyShards,
        write: Write,
        hads: Mapping[Partition, Had],
        place: tuple[str, Sequence[str]],
        progress: Progress,
    ) -> None:
        self._log = log
        self._shards = shards
        self._write = write
        self._hads = hads
        self._stage, self._topics = place
        self._progress = progress
        self._chance = random.Random()
        self._news = asyncio.Event()
        self._trips: list[Trip] = []
        self._current: Trip | None = None
        self._lost: dict[Partition, int] = {}
        self._said = ""
        self.pauses = Pauses(self._chance, time.monotonic)

    @property
    def done(self) -> bool:
        """Whether there is something to take back."""
        return any(trip.done for trip in self._trips)

    def take_back(self) -> dict[Partition, int]:
        """What is done is live again in `hads`; from which offset on each partition of these must be read now."""
        finished = [trip for trip in self._trips if trip.done and trip.had.live.any()]
        self._trips = [trip for trip in self._trips if not trip.done]
        for trip in finished:
            had, slots = self._hads[trip.partition], trip.had.slots
            had.set(slots, trip.had.offset[slots], trip.had.source[slots])
            had.live[slots] = True
            self.pauses.joined(np.unique(self._shards.now.owner[slots]).tolist())
        again = {trip.partition: self._hads[trip.partition] for trip in finished}
        for had in again.values():
            had.begin()
        return {partition: had.next for partition, had in again.items()}

    def leave_out(self, shards: Shards, left: Left) -> None:
        """A shard that is away is left out everywhere at once, so that it keeps nobody waiting twice. Raises Unavailable when a
        partition has no slot any more that could go on."""
        for shard, why in left.away.items():
            self.pauses.failed(shard, why)
            slots = shards.slots_of_shard(shard)
            for had in (*self._hads.values(), *(trip.had for trip in self._trips if trip is not self._current)):
                had.live[slots] = False
        self.must_go_on(had.live.any() for had in self._hads.values())
        self.tell()

    def must_go_on(self, somewhere: Iterable[object]) -> None:
        """Raises Unavailable, and why, unless all of these are true."""
        if not all(somewhere):
            why = "; ".join(self.pauses.why.values()) or "its slots are being moved"
            raise Unavailable(f"no shard takes readings: {why}")

    def drop(self, partitions: Iterable[Partition]) -> None:
        """These are no longer ours, nor in `hads`."""
        gone = set(partitions)
        self._trips = [trip for trip in self._trips if trip.partition not in gone]
        for partition in gone:
            self._lost.pop(partition, None)

    def tell(self) -> None:
        """`progress.problem` says what is left out and why, and no more once that is nothing."""
        away = [
            f"shard {shard} is left out, its readings wait in the Log: {why}" for shard, why in sorted(self.pauses.why.items())
        ]
        late = {slot for had in self._hads.values() for slot in np.flatnonzero(~had.live).tolist()}
        waiting = f"readings of {_named(late)} wait in the Log: moved, or caught up" if late else ""
        problem = "; ".join(away) or waiting
        if problem or self._said:
            self._progress.problem = self._said = problem

    async def look(self) -> None:
        """Looks for what is left out, about once a second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S * (0.5 + self._chance.random()))
            await self._look()
            self.tell()

    async def catch_up(self) -> None:
        """Brings on what is found, until cancelled. Raises PositionLost when another worker has taken over."""
        while True:
            self._trips = [trip for trip in self._trips if trip.had.live.any()]
            under_way = [trip for trip in self._trips if not trip.done]
            if not under_way:
                self._news.clear()
                await self._news.wait()
                continue
            self._current = min(under_way, key=lambda trip: self._hads[trip.partition].reached - trip.had.next)
            await self._step(self._current)
            self._current = None

    async def _look(self) -> None:
        shards = self._shards.now
        asked: dict[int, set[int]] = {}
        for partition in self._hads:
            for slot in self._left(partition).tolist():
                asked.setdefault(int(shards.owner[slot]), set()).add(slot)
        for shard in self.pauses.why:
            asked.setdefault(shard, set())
        asked = {shard: slots for shard, slots in asked.items() if shard in shards.engines and self.pauses.due(shard)}
        self.pauses.forget(shards.engines)
        if not asked:
            return
        found = await find(shards, asked, self._stage, self._log.log_id, self._topics)
        for shard in asked:
            if shard in found.away:
                self.pauses.silent(shard, found.away[shard])
            else:
                self.pauses.answered(shard)
        for partition in list(self._hads):
            self._start(partition, found, shards.slots)
        if any(not slots <= found.writable for shard, slots in asked.items() if shard not in found.away):
            with suppress(Unavailable, TimeoutError):
                async with within(LOOK_WITHIN_S):
                    await self._shards.newer()

    def _left(self, partition: Partition) -> Slots:
        """The slots that are neither with the others nor on a trip."""
        left = ~self._hads[partition].live
        for trip in self._trips:
            if trip.partition == partition:
                left &= ~trip.had.live
        return np.flatnonzero(left)

    def _start(self, partition: Partition, found: Found, of: int) -> None:
        slots = np.array([slot for slot in self._left(partition).tolist() if slot in found.writable], np.int64)
        for group in together(found.had(partition, slots, of)):
            self._trips.append(Trip(partition, found.had(partition, group, of)))
            self._news.set()

    async def _step(self, trip: Trip) -> None:
        """One delivery; another worker may have the partition meanwhile."""
        main, had = self._hads[trip.partition], trip.had
        records: list[Stored] = []
        if had.next <= main.reached:
            found = await self._log.read(trip.partition, had.next, READ_RECORDS)
            records = [stored for stored in found if stored.offset <= main.reached]
        for run in cut(trip.partition, records):
            arrivals = await fresh(trip.partition, had, run)
            flush = await make_flush(trip.partition, had, run, arrivals, self._shards.now)
            if self._hads.get(trip.partition) is not main or not await self._written(flush, main):
                return
        trip.done = not records or main.reached - had.next < CLOSE

    async def _written(self, flush: Flush, main: Had) -> bool:
        """Whether the trip goes on. One whose shard has come back may still meet a transaction from before: then it begins again
        from the positions as they are now."""
        had = flush.had
        try:
            left = await self._write.write(flush, LATE_WITHIN_S)
        except PositionLost:
            had.live[:] = False
            if self._hads.get(flush.partition) is main:
                self._lost[flush.partition] = self._lost.get(flush.partition, 0) + 1
                if self._lost[flush.partition] > MOST_LOST:
                    raise
            return False
        self._lost.pop(flush.partition, None)
        for shard, why in left.away.items():
            self.pauses.failed(shard, why)
            for trip in self._trips:
                trip.had.live[flush.shards.slots_of_shard(shard)] = False
        return bool(had.live.any())


def _named(slots: set[int]) -> str:
    some = ", ".join(map(str, sorted(slots)[:10]))
    return f"slot {some}" if len(slots) == 1 else f"{len(slots)} slots ({some}{', ...' if len(slots) > 10 else ''})"
