"""RabbitMQ for the contract suites: each test has a virtual host of its own, reached through a proxy that can be cut."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiormq

from mesh.adapters.rabbitmq import open_rabbitmq_exchange
from mesh.adapters.rabbitmq_topology import DEAD_TASKS
from mesh.ports import Clock, Exchange
from tests.contract.engines import ExchangeEngine
from tests.proxy import BreakableProxy

RETRY_S = 2.0


@asynccontextmanager
async def rabbitmq_exchange_engine(url: str, clock: Clock, queue_type: str = "classic") -> AsyncIterator[ExchangeEngine]:
    """The exchange in the empty virtual host of this URL."""
    parts = urlsplit(url)
    assert parts.port is not None
    async with BreakableProxy(parts.port) as proxy:
        proxied = url.replace(f"{parts.hostname}:{parts.port}", proxy.target)

        @asynccontextmanager
        async def open_exchange() -> AsyncIterator[Exchange]:
            async with open_rabbitmq_exchange(proxied, clock, queue_type=queue_type, attempt_limit=3, dead_limit=5) as exchange:
                yield exchange

        async def cut() -> None:
            proxy.cut()

        yield ExchangeEngine(
            open_exchange,
            cut,
            lambda: dead_letters(url),
            retry_s=RETRY_S,
            has_clock_of_its_own=True,
            orders_by_severity=queue_type == "classic",
            settles_after_a_cut=False,
            counts_deaths=False,
        )


async def dead_letters(url: str) -> list[tuple[bytes, str]]:
    """Bodies and problems, in their order; they stay where they are."""
    found: list[tuple[bytes, str]] = []
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        while True:
            message = await channel.basic_get(DEAD_TASKS)
            if isinstance(message.delivery, aiormq.spec.Basic.GetEmpty):
                return found
            headers = message.header.properties.headers or {}
            found.append((message.body, str(headers["problem"])))
