"""How a worker takes tasks from a shared queue of RabbitMQ, and settles them.

A task is a worker's while the connection that it came by lives; afterwards it comes again, to anyone.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count

import structlog
from aiormq import Channel, spec
from aiormq.abc import DeliveredMessage
from pamqp.common import FieldTable

from mesh.adapters.rabbitmq_link import Link
from mesh.adapters.rabbitmq_publish import Publisher
from mesh.adapters.rabbitmq_session import CALL_DEADLINE_S, Address, translated
from mesh.adapters.rabbitmq_topology import DEAD, WATER, Topology, declare_exchanges, waiting_name
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Clock, Delivery, Priority

ATTEMPT = "attempt"
PROBLEM = "problem"
PERSISTENT = 2
MOST_PREFETCH = 65_535
_PROBLEM_LIMIT = 1000
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SharedQueue:
    """One shared queue. `attempt_limit`: tries that a task has."""

    address: Address
    priority: Priority
    topology: Topology
    publisher: Publisher
    clock: Clock
    attempt_limit: int

    @property
    def name(self) -> str:
        return self.topology.shared(self.priority).name

    async def publish(self, body: bytes, severity: int, attempt: int = 1, delay_s: float = 0.0) -> None:
        """Durable in the queue on return, or in that where it waits. Raises Unavailable."""
        key = waiting_name(self.priority, delay_s) if delay_s > 0 else self.name
        headers: FieldTable | None = {ATTEMPT: attempt} if attempt > 1 else None
        properties = spec.Basic.Properties(delivery_mode=PERSISTENT, priority=severity, headers=headers)
        await self.publisher.publish(WATER, key, body, properties)

    async def bury(self, body: bytes, severity: int, attempt: int, problem: str) -> None:
        """Durable among the dead letters on return. Raises Unavailable."""
        text = problem[:_PROBLEM_LIMIT].replace("\0", "")
        _log.warning("task buried", priority=self.priority.name, attempt=attempt, problem=text)
        properties = spec.Basic.Properties(
            delivery_mode=PERSISTENT,
            priority=severity,
            headers={ATTEMPT: attempt, PROBLEM: text},
            timestamp=datetime.fromtimestamp(self.clock.now_us() // 1_000_000, UTC),
        )
        await self.publisher.publish(DEAD, self.name, body, properties)


class RabbitDelivery:
    """The port Delivery. Where the connection that it came by is lost, all ways of settling raise Unavailable and the task comes
    again. `done` is on its way on return; `retry` and `bury` are confirmed first: where the connection breaks between the two
    the task is there twice."""

    def __init__(self, queue: SharedQueue, message: DeliveredMessage) -> None:
        properties = message.header.properties
        attempt = (properties.headers or {}).get(ATTEMPT)
        self._queue = queue
        self._message = message
        self._attempt = attempt if isinstance(attempt, int) and attempt > 1 else 1
        self.severity = properties.priority or 0
        self._is_settled = False

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def attempt(self) -> int:
        return self._attempt

    async def done(self) -> None:
        if self._is_open():
            await self._acknowledge()

    async def retry(self, delay_s: float) -> None:
        """As the port says; the delay is lengthened to the next of 1, 2, 4 .. 1,024 s."""
        if self._attempt >= self._queue.attempt_limit:
            await self.bury(f"tried {self._attempt} times")
        elif self._is_open():
            await self._queue.publish(self.body, self.severity, self._attempt + 1, delay_s)
            await self._acknowledge()

    async def bury(self, problem: str) -> None:
        if self._is_open():
            await self._queue.bury(self.body, self.severity, self._attempt, problem)
            await self._acknowledge()

    def _is_open(self) -> bool:
        """Whether it is still to be settled. Raises Unavailable where it no longer can be, by us."""
        if not self._is_settled and self._message.channel.is_closed:
            raise Unavailable(f"the connection that a task of {self._queue.name} came by is lost: the task comes again")
        return not self._is_settled

    async def _acknowledge(self) -> None:
        tag = self._message.delivery_tag
        assert tag is not None
        with translated(f"a task of {self._queue.name} comes again"):
            async with asyncio.timeout(CALL_DEADLINE_S):
                await self._message.channel.basic_ack(tag)
        self._is_settled = True


class Taker:
    """An endless iterator of deliveries, on a connection of its own. For one task at a time; the deliveries may be settled by
    any. Of those that are here already the most severe comes first too."""

    def __init__(self, queue: SharedQueue, prefetch: int) -> None:
        if not 1 <= prefetch <= MOST_PREFETCH:
            raise InvalidArgument(f"a prefetch of {prefetch} cannot be taken: 1 to {MOST_PREFETCH}")
        self._queue = queue
        self._prefetch = prefetch
        self._link = Link(queue.address, f"take {queue.priority.name}", self._begin)
        self._here: list[tuple[int, int, RabbitDelivery]] = []
        self._numbers = count()
        self._channel: Channel | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        """Waits for a task, and for room where `prefetch` are unsettled. Raises Unavailable; may be called again then."""
        while True:
            await self._link.channel()
            if self._here:
                return heapq.heappop(self._here)[2]
            self._news.clear()
            await self._news.wait()

    async def leave(self) -> None:
        """What is unsettled comes again, to others, and nothing of it is counted; at most 4 s."""
        await self._link.close()

    async def _begin(self, channel: Channel) -> None:
        self._channel = channel
        self._here.clear()
        channel.closing.add_done_callback(lambda _: self._news.set())
        channel.on_consumer_cancel_callbacks.add(partial(self._dismissed, channel))
        await declare_exchanges(channel)
        await self._queue.topology.shared(self._queue.priority).declare(channel)
        await channel.basic_qos(prefetch_count=self._prefetch)
        await channel.basic_consume(self._queue.name, self._arrived)

    async def _arrived(self, message: DeliveredMessage) -> None:
        if message.channel is self._channel:
            delivery = RabbitDelivery(self._queue, message)
            heapq.heappush(self._here, (-delivery.severity, next(self._numbers), delivery))
            self._news.set()

    def _dismissed(self, channel: Channel, _: spec.Basic.Cancel) -> None:
        """RabbitMQ sends no more, as when the queue was deleted: open again, which makes it again."""
        _log.warning("RabbitMQ cancelled a consumer", queue=self._queue.name)
        self._link.cut(channel)
        self._news.set()
