"""The real engines: Kafka, RabbitMQ, sharded PostgreSQL and S3, each checked before anything is begun."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.kafka import open_kafka_log
from mesh.adapters.rabbitmq import open_rabbitmq_exchange
from mesh.adapters.s3 import S3Settings, open_s3_objects
from mesh.errors import SetupError, Unavailable
from mesh.ports import Clock
from mesh.settings import Settings
from mesh.shard_map import LiveShards, ShardMap
from mesh.shards import open_engine
from wq.database_url import database_url
from wq.ground import CATALOG_CONNECTIONS, DISK_THREADS, READ_CONNECTIONS, SHARD_CONNECTIONS, URGENT_CONNECTIONS, Ground
from wq.migrate import bring_up, check_deployment, kafka_settings

S3_THREADS = 4
AWAY_AT_MOST_S = 120.0
LOOK_AGAIN_S = 1.0
_REFUSED = {
    "does not exist": "run wq migrate, which makes it, or set catalog_url",
    "authentication failed": "set user and password in catalog_url",
}
"""What a server that answers says (in English, as our own do) when to wait for it would be in vain."""
_log = structlog.get_logger()
_T = TypeVar("_T")


async def engines_ground(stack: AsyncExitStack, settings: Settings, clock: Clock, *, migrates: bool = False) -> Ground:
    """All four engines answer and are as this version needs them; gone with the stack. An engine that is away is waited for,
    at most two minutes. `migrates`: what is missing is made first, else that is a problem too. Raises SetupError that lists
    every problem with its mend."""
    if not settings.on_engines:
        raise SetupError("no engines are configured: give --config .engines/wq.toml, which `wq engines up` writes")
    if migrates:
        await _patiently(lambda: bring_up(settings), clock)
    problems: list[str] = []

    async def checked(open_it: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            return await _patiently(open_it, clock)
        except SetupError as error:
            problems.append(error.message)
            return None

    catalog = open_engine(database_url(settings, ""), CATALOG_CONNECTIONS)
    urgent = open_engine(database_url(settings, ""), URGENT_CONNECTIONS, ping=False)
    for engine in (catalog, urgent):
        stack.push_async_callback(engine.dispose)
    kafka = kafka_settings(settings)
    found = await checked(lambda: _read_map(catalog, settings))
    log = await checked(lambda: stack.enter_async_context(open_kafka_log(kafka, clock)))
    url, queues = settings.rabbitmq_url.get_secret_value(), settings.rabbitmq_queue_type
    exchange = await checked(lambda: stack.enter_async_context(open_rabbitmq_exchange(url, clock, queue_type=queues)))
    s3 = s3_settings(settings)
    pools = [stack.enter_context(ThreadPoolExecutor(S3_THREADS, name)) for name in ("objects", "archive")]
    objects = await checked(lambda: stack.enter_async_context(open_s3_objects(s3, pools[0])))
    packed = await checked(lambda: stack.enter_async_context(open_s3_objects(s3, pools[1])))
    if problems or found is None or log is None or exchange is None or objects is None or packed is None:
        raise SetupError("; ".join(dict.fromkeys(problems)))
    shards, reads = (
        LiveShards(catalog, found, lambda address, most=most: open_engine(database_url(settings, address), most))  # type: ignore[misc]
        for most in (SHARD_CONNECTIONS, READ_CONNECTIONS)
    )
    for live in (shards, reads):
        stack.push_async_callback(live.dispose)
    disk = stack.enter_context(ThreadPoolExecutor(DISK_THREADS, "directory"))
    archives = {name: DirectoryObjects(folder, disk) for name, folder in settings.archives.items()}
    return Ground(catalog, urgent, shards, reads, log, exchange, objects, packed, archives)


def s3_settings(settings: Settings) -> S3Settings:
    return S3Settings(
        settings.s3_endpoint,
        settings.s3_bucket,
        settings.s3_region,
        settings.s3_access_key.get_secret_value(),
        settings.s3_secret_key.get_secret_value(),
        settings.s3_checksums,
    )


async def _read_map(catalog: AsyncEngine, settings: Settings) -> ShardMap:
    """The shard map of a deployment that is as this version needs it."""
    try:
        found, problems = await check_deployment(
            catalog, settings, lambda address: open_engine(database_url(settings, address), 1)
        )
    except Unavailable as error:
        if mend := next((mend for sign, mend in _REFUSED.items() if sign in error.message), ""):
            raise SetupError(f"{error.message.strip()}: {mend}") from error
        raise
    if problems or found is None:
        raise SetupError("; ".join(problems) or "the catalog has no shard map: run wq migrate")
    return found


async def _patiently(work: Callable[[], Awaitable[_T]], clock: Clock) -> _T:
    """Again and again while an engine is away, at most two minutes; then SetupError."""
    deadline_us, said = clock.now_us() + round(AWAY_AT_MOST_S * 1e6), ""
    while True:
        try:
            return await work()
        except Unavailable as error:
            if clock.now_us() > deadline_us:
                raise SetupError(f"{error.message} (waited {AWAY_AT_MOST_S:g} s: is it running?)") from error
            if said != error.message:
                _log.warning("waiting for an engine", problem=error.message)
            said = error.message
        await asyncio.sleep(LOOK_AGAIN_S)
