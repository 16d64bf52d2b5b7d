"""Fixtures that every test may use: one database server for the run, and fresh engines on it for each test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from psycopg.sql import SQL, Identifier

from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.embedded_postgres import EmbeddedPostgres
from mesh.adapters.postgres_log import PostgresLog, open_postgres_log
from mesh.clock import ManualClock
from tests.engines import quick_postgres
from tests.real import kafka_servers, rabbitmq, rabbitmq_server, run_engines, s3_server, s3_settings  # noqa: F401

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
_NUMBERS = count(1)

FreshDatabase = Callable[[], Awaitable[str]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server() -> AsyncIterator[EmbeddedPostgres]:
    """The run's own PostgreSQL. Tests share it; each takes databases of its own by `fresh_database`."""
    async with quick_postgres() as server:
        yield server


@pytest.fixture
async def fresh_database(postgres_server: EmbeddedPostgres) -> AsyncIterator[FreshDatabase]:
    """A function that gives the URL of a new, empty database each time; all are dropped after the test."""
    names: list[str] = []

    async def make() -> str:
        name = f"test_{next(_NUMBERS)}"
        await postgres_server.create_database(name)
        names.append(name)
        return postgres_server.url(name)

    yield make
    async with await psycopg.AsyncConnection.connect(postgres_server.dsn("postgres"), autocommit=True) as connection:
        for name in names:
            await connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    """Objects in a directory of this test."""
    return DirectoryObjects(tmp_path / "objects")


@pytest.fixture
def clock() -> ManualClock:
    """Stands at the start of 2026 until the test advances it."""
    return ManualClock(START_US)


@pytest.fixture
async def postgres_log(fresh_database: FreshDatabase, clock: ManualClock) -> AsyncIterator[PostgresLog]:
    """An empty log of 4 partitions a topic."""
    async with open_postgres_log(await fresh_database(), 4, clock) as log:
        yield log
