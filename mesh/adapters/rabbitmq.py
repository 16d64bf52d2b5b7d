"""The Exchange on RabbitMQ, 3.10 or newer, put together from its parts."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from aiormq import spec

from mesh.adapters.rabbitmq_follow import Follower
from mesh.adapters.rabbitmq_publish import Publisher
from mesh.adapters.rabbitmq_session import Address, address_of
from mesh.adapters.rabbitmq_take import SharedQueue, Taker
from mesh.adapters.rabbitmq_topology import MEDIUM_KEY, MOST_SEVERE, SHARED, WATER, Topology, make_topology
from mesh.errors import InvalidArgument, TooLarge
from mesh.ports import Clock, Delivery, Priority

BODY_LIMIT_BYTES = 4 * 2**20
ATTEMPT_LIMIT = 5
DEAD_LIMIT = 10_000


class RabbitExchange:
    """The port Exchange. Made by `open_rabbitmq_exchange`. Each priority is published on a connection of its own, and each `take`
    and `follow` has one too, so HIGH never waits for LOW. All come back by themselves.

    RabbitMQ does not tell how many workers died with a task: it comes again however many did. A follower loses what is published
    while its connection is lost."""

    def __init__(self, address: Address, queues: Mapping[Priority, SharedQueue], medium: Publisher) -> None:
        self._address = address
        self._queues = queues
        self._medium = medium

    async def publish(self, priority: Priority, body: bytes, severity: int = 0) -> None:
        """As the port says; a body has at most 4 MiB. A queue of 100,000 takes no more: Unavailable (QUEUE_FULL). In quorum
        queues severity has no effect."""
        if not 0 <= severity <= MOST_SEVERE:
            raise InvalidArgument(f"a severity of {severity} does not exist: 0 to {MOST_SEVERE}")
        if len(body) > BODY_LIMIT_BYTES:
            raise TooLarge(f"a task of {len(body)} bytes cannot be published: at most {BODY_LIMIT_BYTES}")
        if priority == Priority.MEDIUM:
            await self._medium.publish(WATER, MEDIUM_KEY, body, spec.Basic.Properties())
        else:
            await self._queues[priority].publish(body, severity)

    @asynccontextmanager
    async def take(self, priority: Priority, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        if priority not in self._queues:
            raise InvalidArgument(f"{priority.name} tasks are followed, not taken: take HIGH or LOW")
        taker = Taker(self._queues[priority], prefetch)
        try:
            yield taker
        finally:
            await taker.leave()

    @asynccontextmanager
    async def follow(self, reader: str, limit: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """As the port says; `limit` is at most 1,000. A name that another reader has is Unavailable until that one goes."""
        follower = Follower(self._address, reader, limit)
        try:
            await follower.open()
            yield follower
        finally:
            await follower.leave()


@asynccontextmanager
async def open_rabbitmq_exchange(
    url: str, clock: Clock, *, queue_type: str = "classic", attempt_limit: int = ATTEMPT_LIMIT, dead_limit: int = DEAD_LIMIT
) -> AsyncIterator[RabbitExchange]:
    """The exchange in the virtual host of this URL (amqp://user:password@host:port/vhost, amqps for TLS); what is missing is
    declared. `queue_type`: classic, in order of severity, or quorum, which survives a node of a cluster and knows no severity. A
    task becomes a dead letter after `attempt_limit` tries; `dead_limit`: dead letters that are kept, the newest. Raises
    SetupError with all that is wrong and its mend, Unavailable when RabbitMQ does not answer."""
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what it has to say is in our errors
    address = address_of(url)
    topology = Topology(queue_type, dead_limit)
    await make_topology(address, topology)
    async with AsyncExitStack() as stack:
        publishers = {priority: Publisher(address, priority, topology) for priority in Priority}
        for publisher in publishers.values():
            stack.push_async_callback(publisher.close)
        queues = {
            priority: SharedQueue(address, priority, topology, publishers[priority], clock, attempt_limit) for priority in SHARED
        }
        yield RabbitExchange(address, queues, publishers[Priority.MEDIUM])
