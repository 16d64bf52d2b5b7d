"""One fixture for each port: the suites below take it and so run once for each adapter."""

from collections.abc import AsyncIterator

import pytest

from mesh.adapters.directory import DirectoryObjects
from mesh.clock import ManualClock
from mesh.ports import Exchange, Log, Objects
from tests.conftest import FreshDatabase
from tests.contract.engines import ExchangeEngine, LogEngine, postgres_exchange_engine, postgres_log_engine


@pytest.fixture(params=["postgres"])
async def log_engine(request: pytest.FixtureRequest, fresh_database: FreshDatabase, clock: ManualClock) -> LogEngine:
    """An empty log of 4 partitions a topic."""
    assert request.param == "postgres"
    return await postgres_log_engine(fresh_database, clock)


@pytest.fixture
async def log(log_engine: LogEngine) -> AsyncIterator[Log]:
    """One way to that log."""
    async with log_engine.open() as log:
        yield log


@pytest.fixture(params=["postgres"])
async def exchange_engine(request: pytest.FixtureRequest, fresh_database: FreshDatabase, clock: ManualClock) -> ExchangeEngine:
    """An empty exchange."""
    assert request.param == "postgres"
    return await postgres_exchange_engine(fresh_database, clock)


@pytest.fixture
async def exchange(exchange_engine: ExchangeEngine) -> AsyncIterator[Exchange]:
    """One way to that exchange."""
    async with exchange_engine.open() as exchange:
        yield exchange


@pytest.fixture(params=["directory"])
def store(request: pytest.FixtureRequest, objects: DirectoryObjects) -> Objects:
    """Empty objects."""
    assert request.param == "directory"
    return objects
