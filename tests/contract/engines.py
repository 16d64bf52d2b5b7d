"""Which engines the contract suites run on: an adapter of a port is one more entry here, and held to the same laws."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import psycopg

from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import ManualClock
from mesh.ports import Clock, Exchange, Log
from tests.conftest import FreshDatabase

PARTITION_COUNT = 4


@dataclass(frozen=True, slots=True)
class LogEngine:
    """One log. `open`: a way to it, as each process has its own; `cut`: every connection to it breaks, once; `stuck`: no append
    gets through while it lasts, for a few seconds at most; `clock`: whose time appends bear; `tick`: the next one bears a later.

    What one engine does and another cannot: `record_limit_bytes`: the greatest value that it takes; `members_outlive_a_cut`: a
    member whose connection broke keeps its partitions and is told nothing."""

    open: Callable[[], AbstractAsyncContextManager[Log]]
    cut: Callable[[], Awaitable[None]]
    stuck: Callable[[], AbstractAsyncContextManager[None]]
    clock: Clock
    tick: Callable[[], Awaitable[None]]
    record_limit_bytes: int = 8 * 2**20
    members_outlive_a_cut: bool = False


@dataclass(frozen=True, slots=True)
class ExchangeEngine:
    """One exchange. `open`: a way to it, as each process has its own, where a task has 3 attempts, as many workers may die with
    it, and 5 dead letters are kept;
    `cut`: every connection to it breaks, once; `dead`: the dead letters' bodies and problems, in their order.

    What one engine does and another cannot: `retry_s`: a delay to try, which passes by the engine's clock where it
    `has_clock_of_its_own`, else by the test's; `orders_by_severity`; `settles_after_a_cut`: a task whose worker's connection
    broke can still be settled by it; `counts_deaths`: a task with which too many workers died is buried."""

    open: Callable[[], AbstractAsyncContextManager[Exchange]]
    cut: Callable[[], Awaitable[None]]
    dead: Callable[[], Awaitable[list[tuple[bytes, str]]]]
    retry_s: float = 30.0
    has_clock_of_its_own: bool = False
    orders_by_severity: bool = True
    settles_after_a_cut: bool = True
    counts_deaths: bool = True


async def postgres_log_engine(fresh_database: FreshDatabase, clock: ManualClock) -> LogEngine:
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

    async def tick() -> None:
        clock.advance(1)

    return LogEngine(open_log, lambda: cut_connections(url), stuck, clock, tick)


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
