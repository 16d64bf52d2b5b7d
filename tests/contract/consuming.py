"""A reader for the suites: seeks what it is assigned, keeps what it was given, and checks that it is its own."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from mesh.errors import Unavailable
from mesh.ports import Assigned, Consumer, Log, Partition, Record, Records, Revoked

DEADLINE_S = 20.0


class Reading:
    """What one consumer was told and given. `next_offset` outlives a revocation, as a position in a database would."""

    def __init__(self, consumer: Consumer, next_offset: dict[Partition, int] | None = None) -> None:
        self.consumer = consumer
        self.held: set[Partition] = set()
        self.next_offset = defaultdict[Partition, int](int) if next_offset is None else next_offset
        self.values: dict[Partition, list[bytes]] = defaultdict(list)
        self.deliveries: list[Records] = []
        self.revoked: list[Partition] = []

    async def step(self, timeout_s: float = 0.05) -> None:
        event = await self.consumer.next(timeout_s)
        if isinstance(event, Assigned):
            assert self.held.isdisjoint(event.partitions)
            self.held |= set(event.partitions)
            await self.consumer.seek({partition: self.next_offset.get(partition, 0) for partition in event.partitions})
        elif isinstance(event, Revoked):
            assert self.held >= set(event.partitions)
            self.held -= set(event.partitions)
            self.revoked += event.partitions
        elif isinstance(event, Records):
            self._take(event)

    async def until(self, done: Callable[[], bool]) -> None:
        """Steps until the condition holds, for 20 s at most; an engine that is away meanwhile is asked again."""
        async with asyncio.timeout(DEADLINE_S):
            while not done():
                try:
                    await self.step()
                except Unavailable:
                    await asyncio.sleep(0.05)

    def _take(self, event: Records) -> None:
        assert event.partition in self.held
        assert event.records
        offsets = [stored.offset for stored in event.records]
        assert offsets == sorted(set(offsets))
        assert offsets[0] >= self.next_offset.get(event.partition, 0)
        self.next_offset[event.partition] = offsets[-1] + 1
        self.values[event.partition] += [stored.record.value for stored in event.records]
        self.deliveries.append(event)


async def together(*readings: Reading, done: Callable[[], bool]) -> None:
    """All of them step until the condition holds; no partition is ever held by two at once."""

    async def one(reading: Reading) -> None:
        while not done():
            await reading.step()
            held = [partition for each in readings for partition in each.held]
            assert len(held) == len(set(held))

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for reading in readings:
            group.create_task(one(reading))


async def append_all(log: Log, partition: Partition, values: Sequence[bytes]) -> list[int]:
    """Appends these values in their order; their offsets, when all are durable."""
    futures: list[Awaitable[int]] = [await log.append(partition, Record(value)) for value in values]
    return list(await asyncio.gather(*futures))


def numbered(count: int, name: str = "r") -> list[bytes]:
    """Values that tell their order."""
    return [f"{name}{i}".encode() for i in range(count)]
