"""The Log on a real Kafka for the suites: topics of its own for each test, and ways to break what is between."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

from mesh.adapters.kafka import KafkaSettings, create_topics, open_kafka_log
from mesh.adapters.kafka_admin import administration
from mesh.adapters.kafka_topics import described
from mesh.clock import SystemClock
from mesh.ports import Log
from mesh.topics import TOPICS
from tests.contract.engines import PARTITION_COUNT, LogEngine
from tests.contract.kafka_proxy import KafkaProxy

RECORD_LIMIT_BYTES = 4 * 2**20 - 2048


@asynccontextmanager
async def fresh_topics(servers: str) -> AsyncIterator[KafkaSettings]:
    """Empty topics with a prefix of their own, gone afterwards."""
    settings = KafkaSettings(servers, f"test-{secrets.token_hex(6)}-", PARTITION_COUNT)
    await create_topics(settings)
    try:
        yield settings
    finally:
        await delete_topics(settings)


async def delete_topics(settings: KafkaSettings, topics: Collection[str] = TOPICS) -> None:
    """None of them is known to the brokers on return."""
    async with administration(settings) as admin:
        await admin.answers(admin.client.delete_topics([settings.named(topic) for topic in topics]))
        async with asyncio.timeout(30):
            while True:
                there, _ = await described(admin, settings)
                if there.keys().isdisjoint(topics):
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def kafka_log_engine(servers: str) -> AsyncIterator[LogEngine]:
    """A log of 4 partitions a topic behind a proxy, that gives an append up after 6 s."""
    clock = SystemClock()
    async with fresh_topics(servers) as direct, KafkaProxy(int(servers.rpartition(":")[2])) as proxy:
        settings = replace(direct, servers=proxy.target)

        @asynccontextmanager
        async def open_log() -> AsyncIterator[Log]:
            async with open_kafka_log(settings, clock, deliver_within_s=6.0) as log:
                yield log

        @asynccontextmanager
        async def stuck() -> AsyncIterator[None]:
            proxy.pause()
            try:
                yield
            finally:
                proxy.cut()  # what was under way is lost
                proxy.resume()

        async def cut() -> None:
            proxy.cut()

        async def tick() -> None:
            await clock.sleep(0.002)  # a time has whole milliseconds

        yield LogEngine(open_log, cut, stuck, clock, tick, record_limit_bytes=RECORD_LIMIT_BYTES, members_outlive_a_cut=True)
