"""How medium tasks reach a reader through RabbitMQ: a queue of its own, which drops the oldest and goes with the reader."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from aiormq import Channel, spec
from aiormq.abc import DeliveredMessage

from mesh.adapters.rabbitmq_link import Link
from mesh.adapters.rabbitmq_session import CALL_DEADLINE_S, Address, translated
from mesh.adapters.rabbitmq_topology import MEDIUM_KEY, WATER, declare_exchanges
from mesh.errors import InvalidArgument

MOST_WAITING = 1000
_LONGEST_NAME = 255


class Follower:
    """An endless iterator of bodies, in their order. Whoever is slow finds only the newest `limit` of those that wait: the next
    one is sent only when it is asked for, so all others wait where the oldest are dropped. What comes while the connection is
    lost is not seen."""

    def __init__(self, address: Address, reader: str, limit: int) -> None:
        if not 1 <= limit <= MOST_WAITING:
            raise InvalidArgument(f"a reader's queue cannot hold {limit} tasks: 1 to {MOST_WAITING}")
        self._queue = f"{MEDIUM_KEY}.{reader}"
        if not reader or len(self._queue.encode()) > _LONGEST_NAME:
            raise InvalidArgument(f"a reader cannot be named {reader[:40]!r}: 1 to {_LONGEST_NAME - len(MEDIUM_KEY) - 1} bytes")
        self._limit = limit
        self._link = Link(address, f"follow {reader}", self._begin)
        self._channel: Channel | None = None
        self._is_asked = False
        self._given: DeliveredMessage | None = None
        self._here: DeliveredMessage | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def open(self) -> None:
        """The queue is there on return. Raises Unavailable."""
        await self._link.channel()

    async def __anext__(self) -> bytes:
        """Waits for a task. Raises Unavailable; may be called again then."""
        while True:
            channel = await self._link.channel()
            if self._here is not None:
                self._given, self._here = self._here, None
                return self._given.body
            self._news.clear()
            await self._ask(channel)
            await self._news.wait()

    async def leave(self) -> None:
        """The queue is gone; at most 4 s."""
        await self._link.close()

    async def _ask(self, channel: Channel) -> None:
        with translated(f"{self._queue} is lost"):
            async with asyncio.timeout(CALL_DEADLINE_S):
                if not self._is_asked:
                    self._is_asked = True
                    await channel.basic_consume(self._queue, self._arrived)
                elif self._given is not None:
                    tag, self._given = self._given.delivery_tag, None
                    assert tag is not None
                    await channel.basic_ack(tag)

    async def _begin(self, channel: Channel) -> None:
        self._channel, self._is_asked, self._given, self._here = channel, False, None, None
        channel.closing.add_done_callback(lambda _: self._news.set())
        channel.on_consumer_cancel_callbacks.add(partial(self._dismissed, channel))
        await declare_exchanges(channel)
        limits: dict[str, Any] = {"x-max-length": self._limit, "x-overflow": "drop-head"}
        await channel.queue_declare(self._queue, exclusive=True, arguments=limits)
        await channel.queue_bind(self._queue, WATER, MEDIUM_KEY)
        await channel.basic_qos(prefetch_count=1)

    async def _arrived(self, message: DeliveredMessage) -> None:
        if message.channel is self._channel:
            self._here = message
            self._news.set()

    def _dismissed(self, channel: Channel, _: spec.Basic.Cancel) -> None:
        self._link.cut(channel)
        self._news.set()
