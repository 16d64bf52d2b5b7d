"""What a consumer of the embedded Log is given next: an event of its group, or records of the partition whose turn it is."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from mesh.adapters.postgres_connections import Connections
from mesh.adapters.postgres_log_group import HURRY_S, Membership
from mesh.adapters.postgres_log_read import READ_BYTES, read_records
from mesh.adapters.postgres_log_tips import Tail, Tips
from mesh.errors import FailedPrecondition
from mesh.ports import Assigned, Partition, Records, Revoked, Stored

DELIVERY_RECORDS = 256
SHARE_OF = 8  # each later topic with records gets one in so many deliveries


class PostgresConsumer:
    """The port Consumer. `membership` None: a lone reader of all `partitions`. For one task at a time.

    The group is looked after inside `next`: a caller who stays away keeps its partitions for as long as its session lives.
    """

    def __init__(
        self,
        database: Connections,
        tips: Tips,
        tail: Tail,
        topics: Sequence[str],
        partitions: Sequence[Partition],
        membership: Membership | None,
    ) -> None:
        self._database = database
        self._tips = tips
        self._tail = tail
        self._topics = topics
        self._membership = membership
        self._unannounced = () if membership else tuple(partitions)
        self._assigned: set[Partition] = set()
        self._next_offset: dict[Partition, int] = {}
        self._turn = Turns(topics)
        self._members_changed = 0

    async def next(self, timeout_s: float) -> Assigned | Records | Revoked | None:
        """As the port says. Raises Unavailable when the database is away; the partitions were told as revoked before."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        with self._tips.waiting(self._assigned) as news:
            while True:
                news.clear()
                self._hear_of_members()
                if event := await self._group_event() or await self._records():
                    return event
                wait_s = deadline_s - loop.time()
                if wait_s <= 0:
                    return None
                await self._wait(news, wait_s)

    async def seek(self, offsets: Mapping[Partition, int]) -> None:
        """As the port says. FailedPrecondition for a partition that is not ours (any more)."""
        for partition in offsets:
            if partition not in self._assigned:
                raise FailedPrecondition(f"{partition} is not assigned to this consumer: seek only what Assigned named")
        self._next_offset.update(offsets)

    async def _wait(self, news: asyncio.Event, wait_s: float) -> None:
        if self._membership is not None:
            wait_s = min(wait_s, max(self._membership.check_in_s, HURRY_S / 10))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await news.wait()

    def _hear_of_members(self) -> None:
        if self._membership is not None and self._tips.members_changed != self._members_changed:
            self._members_changed = self._tips.members_changed
            self._membership.hurry()

    async def _group_event(self) -> Assigned | Revoked | None:
        event: Assigned | Revoked | None = None
        if self._membership is not None:
            event = await self._membership.check()
        elif self._unannounced:
            event, self._unannounced = Assigned(self._unannounced), ()
        if isinstance(event, Assigned):
            self._assigned |= set(event.partitions)
        if isinstance(event, Revoked):
            self._assigned -= set(event.partitions)
            for partition in event.partitions:
                self._next_offset.pop(partition, None)
        return event

    def _ready(self) -> list[Partition]:
        return [p for p, offset in self._next_offset.items() if offset < self._tips.next_offset(p)]

    async def _records(self) -> Records | None:
        ready = self._ready()
        if not ready:
            return None
        partition = self._turn.choose(ready)
        records = await self._read(partition)
        if not records:
            await asyncio.sleep(HURRY_S)  # never expected: what was heard of is committed, and the newest is kept
            return None
        self._turn.took(partition, ready)
        self._next_offset[partition] = records[-1].offset + 1
        return Records(partition, tuple(records))

    async def _read(self, partition: Partition) -> Sequence[Stored]:
        offset = self._next_offset[partition]
        known = self._tail.read(partition, offset, DELIVERY_RECORDS, READ_BYTES)
        return known or await read_records(self._database, partition, offset, DELIVERY_RECORDS)


class Turns:
    """Whose turn it is: the topic named first, but each later one that has records at least once in eight; in a topic the
    partition that waits longest."""

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics
        self._waited = dict.fromkeys(topics, 0)
        self._served: dict[Partition, int] = {}
        self._count = 0

    def choose(self, ready: Sequence[Partition]) -> Partition:
        """One of these, which are not none."""
        with_records = {partition.topic for partition in ready}
        later = [topic for topic in self._topics[1:] if topic in with_records]
        due = [topic for topic in later if self._waited[topic] >= SHARE_OF - len(later)]
        if due:
            topic = max(due, key=lambda topic: self._waited[topic])
        else:
            topic = next(topic for topic in self._topics if topic in with_records)
        return min((p for p in ready if p.topic == topic), key=lambda p: self._served.get(p, 0))

    def took(self, partition: Partition, ready: Sequence[Partition]) -> None:
        """This one had its turn, while these were ready."""
        self._count += 1
        self._served[partition] = self._count
        with_records = {ready_one.topic for ready_one in ready}
        for topic in self._topics:
            self._waited[topic] = self._waited[topic] + 1 if topic in with_records and topic != partition.topic else 0
