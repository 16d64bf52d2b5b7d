"""How far the shards are: which offsets of accepted, backfill and restored are recorded in every slot, and waiting for them
(law 1)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import positions
from mesh.clock import SystemClock
from mesh.ports import Clock, Partition
from mesh.positions import Position
from mesh.shards import AnyShards, transaction
from mesh.topics import RESTORED, SOURCE_OF
from query_svc.record import STAGE, TOPICS

POLL_S = 0.05
_T = TypeVar("_T")


class Recorded:
    """Reads the recorder's positions. Many callers share the reads: at most one at a time, and those who wait cause at most
    20 a second together."""

    def __init__(self, shards: AnyShards, log_id: str, clock: Clock | None = None) -> None:
        self._shards = shards
        self._log_id = log_id
        self._clock = clock or SystemClock()
        self._latest = Latest(self._read, self._clock)

    async def offsets(self) -> Mapping[Partition, int]:
        """For each partition of accepted, backfill and restored the offset up to which everything is recorded in every slot,
        read after the call; a partition that some slot has not begun is missing (-1). Raises Unavailable when a shard is away."""
        return await self._latest.fresh()

    async def wait_for(self, wanted: Mapping[Partition, int], wait_s: float) -> bool:
        """Whether everything up to these offsets was recorded within `wait_s`. Returns as soon as it is."""
        return await wait_until(lambda offsets: passed(wanted, offsets), self._latest, wait_s, self._clock)

    async def _read(self) -> Mapping[Partition, int]:
        shards = self._shards.now

        async def one(shard: int, engine: AsyncEngine) -> dict[Partition, Position]:
            async with transaction(engine) as connection:
                slots = shards.slots_of_shard(shard)
                return await positions.lowest(connection, STAGE, self._log_id, (*TOPICS, RESTORED), slots)

        found = await shards.gather(one, shards.owning)
        return dict(
            _readable(partition, [shard[partition] for shard in found])
            for partition in found[0]
            if all(partition in shard for shard in found)
        )


def _readable(partition: Partition, of_shards: Sequence[Position]) -> tuple[Partition, int]:
    """The place in terms of what callers know: screened records stand for the accepted ones that they were made from."""
    if partition.topic == RESTORED:
        return partition, min(position.offset for position in of_shards)
    return Partition(SOURCE_OF[partition.topic], partition.number), min(position.source_offset for position in of_shards)


class Latest(Generic[_T]):
    """The answer of a read that many want, each with its own need for freshness."""

    def __init__(self, read: Callable[[], Awaitable[_T]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = asyncio.Lock()
        self._started = 0
        self._answers: list[tuple[int, _T]] = []

    async def fresh(self) -> _T:
        """An answer to a read that began after this call; shared with everybody who called before it began."""
        ticket = self._started
        async with self._lock:
            if self._started == ticket or not self._answers:
                self._started += 1
                self._answers.clear()
                at_us = self._clock.now_us()
                self._answers = [(at_us, await self._read())]
            return self._answers[0][1]

    async def recent(self) -> _T:
        """An answer that is at most 50 ms old, also when the clock was put back."""
        if self._answers and 0 <= self._clock.now_us() - self._answers[0][0] < POLL_S * 1_000_000:
            return self._answers[0][1]
        return await self.fresh()


async def wait_until(holds: Callable[[_T], bool], latest: Latest[_T], wait_s: float, clock: Clock) -> bool:
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
