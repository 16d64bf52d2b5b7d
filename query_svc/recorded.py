"""How far the shards are: which offsets of accepted, backfill and restored are recorded in every slot, and waiting for them
(law 1)."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import positions
from mesh.clock import SystemClock
from mesh.errors import Unavailable
from mesh.ports import Clock, Partition
from mesh.positions import Position
from mesh.shards import AnyShards, Shards, transaction
from mesh.topics import RESTORED, SOURCE_OF
from query_svc.record import STAGE, TOPICS

POLL_S = 0.05
READ_WITHIN_S = 3.0
_T = TypeVar("_T")
_Answer = TypeVar("_Answer", covariant=True)
_Places = Mapping[Partition, Position]


class Recorded:
    """Reads the recorder's positions. Many callers share the reads: of each shard at most one at a time, and those who wait cause
    at most 20 a second together. A shard that does not answer is given up after 3 s."""

    def __init__(self, shards: AnyShards, log_id: str, clock: Clock | None = None) -> None:
        self._shards = shards
        self._log_id = log_id
        self._clock = clock or SystemClock()
        self._version = -1
        self._latest: dict[int, Latest[_Places]] = {}

    async def offsets(self) -> Mapping[Partition, int]:
        """For each partition of accepted, backfill and restored the offset up to which everything is recorded in every slot,
        read after the call; a partition that some slot has not begun is missing (-1). Raises Unavailable when a shard is away."""
        return await self._offsets((), Latest.fresh)

    async def positions(self) -> tuple[Mapping[Partition, Position], Mapping[int, str]]:
        """The lowest positions in `screened`, `screened_backfill` and `restored` of all slots whose shard answers, read after the
        call, and by shard why one does not."""
        shards = self._shards.now
        away: dict[int, str] = {}

        async def read(shard: int) -> _Places | None:
            try:
                return await self._latest_of(shards, shard).fresh()
            except Unavailable as error:
                away[shard] = error.message
                return None

        found = await asyncio.gather(*(read(shard) for shard in shards.owning))
        return _lowest([places for places in found if places is not None]), away

    async def wait_for(self, wanted: Mapping[Partition, int], wait_s: float, sensor_ids: Collection[int] = ()) -> bool:
        """Whether everything up to these offsets was recorded within `wait_s`, of these sensors, or of all when none is named.
        Returns as soon as it is. Raises Unavailable when a shard that has any of them is away; others do not matter."""
        reading = _Reading(partial(self._offsets, sensor_ids, Latest.fresh), partial(self._offsets, sensor_ids, Latest.recent))
        return await wait_until(lambda offsets: passed(wanted, offsets), reading, wait_s, self._clock)

    async def _offsets(
        self, sensor_ids: Collection[int], how: Callable[["Latest[_Places]"], Awaitable[_Places]]
    ) -> Mapping[Partition, int]:
        shards = self._shards.now
        some = np.unique(shards.of(np.array(list(sensor_ids), np.int64))).tolist()

        async def read(shard: int, _: AsyncEngine) -> _Places:
            return await how(self._latest_of(shards, shard))

        return _readable(_lowest(await shards.gather(read, some or shards.owning)))

    def _latest_of(self, shards: Shards, shard: int) -> "Latest[_Places]":
        """What is known by one version of the map says nothing by another: a slot may have moved."""
        if self._version != shards.version:
            self._version, self._latest = shards.version, {}
        if shard not in self._latest:
            self._latest[shard] = Latest(lambda: self._read(shards, shard), self._clock)
        return self._latest[shard]

    async def _read(self, shards: Shards, shard: int) -> _Places:
        try:
            async with transaction(shards.engines[shard], READ_WITHIN_S) as connection:
                slots = shards.slots_of_shard(shard)
                return await positions.lowest(connection, STAGE, self._log_id, (*TOPICS, RESTORED), slots)
        except Unavailable as error:
            raise Unavailable(f"shard {shard}: {error.message}", reason=error.reason) from error


def _lowest(of_shards: Sequence[_Places]) -> dict[Partition, Position]:
    """The lowest position in each partition that all of them have begun, by offset and by source offset."""
    everywhere: Iterable[Partition] = set.intersection(*(set(places) for places in of_shards)) if of_shards else ()
    found = {partition: [places[partition] for places in of_shards] for partition in everywhere}
    return {partition: Position(min(p.offset for p in of), min(p.source_offset for p in of)) for partition, of in found.items()}


def _readable(places: _Places) -> dict[Partition, int]:
    """The places in terms of what callers know: screened records stand for the accepted ones that they were made from."""
    return {
        partition if partition.topic == RESTORED else Partition(SOURCE_OF[partition.topic], partition.number): (
            position.offset if partition.topic == RESTORED else position.source_offset
        )
        for partition, position in places.items()
    }


class Reading(Protocol[_Answer]):
    """An answer that changes, as Latest gives it."""

    async def fresh(self) -> _Answer:
        """One that was read after the call."""

    async def recent(self) -> _Answer:
        """One that is at most 50 ms old."""


@dataclass(frozen=True, slots=True)
class _Reading(Generic[_T]):
    fresh: Callable[[], Coroutine[Any, Any, _T]]
    recent: Callable[[], Coroutine[Any, Any, _T]]


class Latest(Generic[_T]):
    """The answer of a read that many want, each with its own need for freshness; that it was Unavailable is an answer too."""

    def __init__(self, read: Callable[[], Awaitable[_T]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = asyncio.Lock()
        self._started = 0
        self._answers: list[tuple[int, _T | Unavailable]] = []

    async def fresh(self) -> _T:
        """An answer to a read that began after this call; shared with everybody who called before it began."""
        ticket = self._started
        async with self._lock:
            if self._started == ticket or not self._answers:
                self._started += 1
                self._answers.clear()
                at_us = self._clock.now_us()
                try:
                    self._answers = [(at_us, await self._read())]
                except Unavailable as error:
                    self._answers = [(at_us, error)]
            return self._answer()

    async def recent(self) -> _T:
        """An answer that is at most 50 ms old, also when the clock was put back."""
        if self._answers and 0 <= self._clock.now_us() - self._answers[0][0] < POLL_S * 1_000_000:
            return self._answer()
        return await self.fresh()

    def _answer(self) -> _T:
        answer = self._answers[0][1]
        if isinstance(answer, Unavailable):
            raise Unavailable(answer.message, reason=answer.reason) from answer
        return answer


async def wait_until(holds: Callable[[_T], bool], latest: Reading[_T], wait_s: float, clock: Clock) -> bool:
    """Whether it holds now or begins to within `wait_s`, by a fresh answer at first and recent ones every 50 ms."""
    deadline_us = clock.now_us() + round(wait_s * 1_000_000)
    answer = await latest.fresh()
    while not holds(answer):
        left_us = deadline_us - clock.now_us()
        if left_us <= 0:
            return False
        await clock.sleep(min(POLL_S, left_us / 1_000_000))
        answer = await latest.recent()
    return True


def passed(wanted: Mapping[Partition, int], offsets: Mapping[Partition, int]) -> bool:
    """Whether every wanted offset is covered; -1 always is."""
    return all(offsets.get(partition, -1) >= offset for partition, offset in wanted.items())
