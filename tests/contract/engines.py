"""Which engines the contract suites run on: an adapter of a port is one more entry here, and held to the same laws."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import psycopg

from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.adapters.postgres_log import open_postgres_log
from mesh.ports import Clock, Exchange, Log
from tests.conftest import FreshDatabase

PARTITION_COUNT = 4


@dataclass(frozen=True, slots=True)
class LogEngine:
    """One log. `open`: a way to it, as each process has its own; `cut`: every connection to it breaks, once; `stuck`: no append
    gets through while it lasts, for a few seconds at most."""

    open: Callable[[], AbstractAsyncContextManager[Log]]
    cut: Callable[[], Awaitable[None]]
    stuck: Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class ExchangeEngine:
    """One exchange. `open`: a way to it, as each process has its own, where a task has 3 attempts, as many workers may die with
    it, and 5 dead letters are kept;
    `cut`: every connection to it breaks, once; `dead`: the dead letters' bodies and problems, in their order."""

    open: Callable[[], AbstractAsyncContextManager[Exchange]]
    cut: Callable[[], Awaitable[None]]
    dead: Callable[[], Awaitable[list[tuple[bytes, str]]]]


async def postgres_log_engine(fresh_database: FreshDatabase, clock: Clock) -> LogEngine:
    url = await fresh_database()

    @asynccontextmanager
    async def open_log() -> AsyncIterator[Log]:
        async with open_postgres_log(url, PARTITION_COUNT, clock) as log:
            yield log

    @asynccontextmanager
    async def stuck() -> AsyncIterator[None]:
        async with await psycopg.AsyncConnection.connect(libpq(url)) as connection:
            await connection.execute("LOCK TABLE log.records IN SHARE MODE")
            yield

    return LogEngine(open_log, lambda: cut_connections(url), stuck)


async def postgres_exchange_engine(fresh_database: FreshDatabase, clock: Clock) -> ExchangeEngine:
    url = await fresh_database()

    @asynccontextmanager
    async def open_exchange() -> AsyncIterator[Exchange]:
        async with open_postgres_exchange(url, clock, attempt_limit=3, death_limit=3, dead_limit=5) as exchange:
            yield exchange

    async def dead() -> list[tuple[bytes, str]]:
        async with await psycopg.AsyncConnection.connect(libpq(url)) as connection:
            found = await connection.execute("SELECT body, problem FROM exchange.dead_tasks ORDER BY dead_id")
            return [(bytes(body), str(problem)) for body, problem in await found.fetchall()]

    return ExchangeEngine(open_exchange, lambda: cut_connections(url), dead)


def libpq(url: str) -> str:
    """The same address for psycopg itself."""
    return url.replace("+psycopg", "", 1)


async def cut_connections(url: str) -> None:
    """The server ends all sessions of this database but the one that asks."""
    async with await psycopg.AsyncConnection.connect(libpq(url), autocommit=True) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
