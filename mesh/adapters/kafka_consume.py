"""What a consumer of the Log in Kafka is given next: an event of its group, or records of the partition whose turn it is."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from mesh.adapters.kafka_clients import KafkaSettings
from mesh.adapters.kafka_errors import away
from mesh.adapters.kafka_fetch import Fetched, Fetcher, News
from mesh.adapters.kafka_room import Room
from mesh.adapters.kafka_watch import Watch
from mesh.adapters.postgres_log_consume import DELIVERY_RECORDS, SHARE_OF, Turns
from mesh.errors import FailedPrecondition, Unavailable
from mesh.ports import Assigned, Partition, Records, Revoked, Stored

DELIVERY_BYTES = 8 * 2**20
_LEAVE_S = 3.0
_HOLD_S = 0.3


class KafkaConsumer:
    """The port Consumer. For one task at a time. Looked after by a thread: a caller who stays away keeps its partitions for a
    minute at most, and learns by Revoked that it has lost them."""

    def __init__(self, topics: Sequence[str], watch: Watch) -> None:
        self._watch = watch
        self._room = Room(topics)
        self._turn = Turns(topics)
        self._waited = dict.fromkeys(topics[1:], 0)
        self._held_since_s: float | None = None
        self._news = asyncio.Event()
        self._events: deque[Assigned | Revoked] = deque()
        self._problem: Unavailable | None = None
        self._assigned: set[Partition] = set()
        self._tenures = 0
        self._tenure: dict[Partition, int] = {}
        self._waiting: dict[Partition, deque[Stored]] = {}
        self._told_revoked = 0
        self._fetcher: Fetcher

    async def next(self, timeout_s: float) -> Assigned | Records | Revoked | None:
        """As the port says. Raises Unavailable while Kafka is away: the partitions may still be ours when it is back."""
        self._fetcher.release(self._told_revoked)
        self._fetcher.asking(True)
        try:
            with self._watch.telling(self._news), suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while True:
                        self._news.clear()
                        if event := self._event() or self._records():
                            return event
                        await self._news.wait()
            return self._event() or self._records()
        finally:
            self._fetcher.asking(False)

    async def seek(self, offsets: Mapping[Partition, int]) -> None:
        """As the port says. FailedPrecondition for a partition that is not ours (any more)."""
        for partition in offsets:
            if partition not in self._assigned:
                raise FailedPrecondition(f"{partition} is not assigned to this consumer: seek only what Assigned named")
        self._tenures += 1
        for partition in offsets:
            self._drop(partition)
            self._tenure[partition] = self._tenures
        self._fetcher.start(offsets, self._tenures)

    def hear(self, news: Sequence[News]) -> None:
        """What the thread has found, in its order. What is revoked is not handed out from now on, before the caller knows."""
        for item in news:
            if isinstance(item, Fetched):
                if self._tenure.get(item.partition) == item.tenure:
                    self._waiting.setdefault(item.partition, deque()).extend(item.records)
                else:
                    self._room.taken(item.partition, item.records)
            elif isinstance(item, Unavailable):
                self._problem = item
            else:
                self._events.append(item)
                if isinstance(item, Revoked):
                    for partition in item.partitions:
                        self._drop(partition)
        self._news.set()

    def _event(self) -> Assigned | Revoked | None:
        if not self._events:
            self._raise_problem()
            return None
        event = self._events.popleft()
        if isinstance(event, Assigned):
            self._assigned |= set(event.partitions)
        else:
            self._told_revoked += 1
            self._assigned -= set(event.partitions)
        return event

    def _raise_problem(self) -> None:
        problem, self._problem = self._problem or self._watch.problem, None
        if problem is not None:
            raise Unavailable(problem.message, reason=problem.reason)
        if not self._fetcher.is_alive:
            raise away("this consumer has ended; open another")

    def _records(self) -> Records | None:
        ready = self._in_turn(list(self._waiting))
        if not ready or self._watch.doubtful:
            return None
        partition = self._turn.choose(ready)
        self._turn.took(partition, list(self._waiting))
        self._waited = {topic: 0 if topic == partition.topic else count + 1 for topic, count in self._waited.items()}
        records = self._some_of(self._waiting[partition])
        if not self._waiting[partition]:
            del self._waiting[partition]
        self._room.taken(partition, records)
        self._fetcher.make_room()
        return Records(partition, records)

    def _in_turn(self, ready: list[Partition]) -> list[Partition]:
        """Those of a later topic when it is its turn; none while it is not known whether it has records, for 0.3 s at most."""
        here = {partition.topic for partition in ready}
        for topic in self._waited:
            if topic not in here and not self._room.may_have_more(topic):
                self._waited[topic] = 0
        due = {topic for topic, count in self._waited.items() if count >= SHARE_OF - len(self._waited)}
        if due & here:
            return [partition for partition in ready if partition.topic in due]
        now_s = asyncio.get_running_loop().time()
        if not due or not ready:
            self._held_since_s = None
        elif self._held_since_s is None:
            self._held_since_s = now_s
            asyncio.get_running_loop().call_later(_HOLD_S, self._news.set)
        elif now_s - self._held_since_s >= _HOLD_S:
            self._held_since_s = None
            self._waited |= dict.fromkeys(due, 0)
        return ready if self._held_since_s is None else []

    def _some_of(self, waiting: deque[Stored]) -> tuple[Stored, ...]:
        taken: list[Stored] = []
        taken_bytes = 0
        while waiting and len(taken) < DELIVERY_RECORDS:
            taken_bytes += len(waiting[0].record.value)
            if taken and taken_bytes > DELIVERY_BYTES:
                break
            taken.append(waiting.popleft())
        return tuple(taken)

    def _drop(self, partition: Partition) -> None:
        self._tenure.pop(partition, None)
        self._room.taken(partition, tuple(self._waiting.pop(partition, ())))

    @asynccontextmanager
    async def fetching(
        self, settings: KafkaSettings, group: str | None, partitions: Sequence[Partition]
    ) -> AsyncIterator["KafkaConsumer"]:
        """It is a member of the group while the body runs."""
        self._fetcher = Fetcher(settings, group, partitions, self._room, self.hear, self._watch.doubt)
        try:
            yield self
        finally:
            await self._fetcher.close(_LEAVE_S)
