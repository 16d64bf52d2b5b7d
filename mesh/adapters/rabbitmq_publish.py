"""How a task gets into RabbitMQ: many in flight, each confirmed before its caller goes on."""

import asyncio

from aiormq import Channel, spec
from aiormq.abc import AbstractConnection
from aiormq.exceptions import DeliveryError, PublishError

from mesh.adapters.rabbitmq_link import Link
from mesh.adapters.rabbitmq_session import Address, translated
from mesh.adapters.rabbitmq_topology import DEPTH_LIMIT, SHARED, Topology, declare_exchanges
from mesh.errors import Unavailable
from mesh.ports import Priority

PUBLISH_DEADLINE_S = 8.0
MOST_IN_FLIGHT = 256


class Publisher:
    """Publishes on a connection of its own, as RabbitMQ holds up whole connections. At most 256 at a time, others wait."""

    def __init__(self, address: Address, priority: Priority, topology: Topology) -> None:
        self._priority = priority
        self._topology = topology
        self._link = Link(address, f"publish {priority.name}", self._prepare, confirms=True)
        self._room = asyncio.Semaphore(MOST_IN_FLIGHT)

    async def publish(self, exchange: str, key: str, body: bytes, properties: spec.Basic.Properties) -> None:
        """Confirmed on return, within 8 s; by HIGH and LOW also known to be in a queue. Raises Unavailable; then it MAY have
        been published."""
        channel: Channel | None = None
        what = f"RabbitMQ did not take a task for {key}"
        try:
            async with asyncio.timeout(PUBLISH_DEADLINE_S), self._room:
                channel = await self._link.channel()
                await channel.connection.ready()
                with translated(what):
                    await self._confirmed(channel, exchange, key, body, properties)
        except TimeoutError:
            if channel is not None and await _is_blocked(channel.connection):
                raise Unavailable(f"{what}: it takes nothing while its memory or its disk is short") from None
            if channel is not None:
                self._link.cut(channel)
            raise Unavailable(f"{what}: no confirmation within {PUBLISH_DEADLINE_S:g} s") from None

    async def close(self) -> None:
        """For good."""
        await self._link.close()

    async def _confirmed(self, channel: Channel, exchange: str, key: str, body: bytes, properties: spec.Basic.Properties) -> None:
        mandatory = self._priority != Priority.MEDIUM
        try:
            await channel.basic_publish(body, exchange=exchange, routing_key=key, properties=properties, mandatory=mandatory)
        except PublishError as error:
            self._link.cut(channel)  # what is opened next declares the queue again
            raise Unavailable(f"RabbitMQ has no queue for {key}: it is made again") from error
        except DeliveryError as error:
            problem = f"the queue {key} holds {DEPTH_LIMIT}, or is away: its workers are behind"
            raise Unavailable(problem, reason="QUEUE_FULL") from error

    async def _prepare(self, channel: Channel) -> None:
        await declare_exchanges(channel)
        if self._priority in SHARED:
            for queue in self._topology.of(self._priority):
                await queue.declare(channel)


async def _is_blocked(connection: AbstractConnection) -> bool:
    """Whether RabbitMQ has told this connection to publish nothing for now."""
    try:
        async with asyncio.timeout(0):
            await connection.ready()
    except TimeoutError:
        return True
    return False
