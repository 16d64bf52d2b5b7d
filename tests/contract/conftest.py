"""One fixture for each port: the suites below take it and so run once for each adapter."""

from collections.abc import AsyncIterator

import pytest

from mesh.adapters.directory import DirectoryObjects
from mesh.clock import ManualClock
from mesh.ports import Exchange, Log, Objects
from tests.conftest import FreshDatabase
from tests.contract.engines import ExchangeEngine, LogEngine, postgres_exchange_engine, postgres_log_engine
from tests.contract.kafka_engine import kafka_log_engine
from tests.contract.rabbitmq_engine import rabbitmq_exchange_engine
from tests.contract.s3_engine import s3_objects
from tests.real import FreshVhost


@pytest.fixture(params=["postgres", "kafka"])
async def log_engine(
    request: pytest.FixtureRequest, fresh_database: FreshDatabase, clock: ManualClock
) -> AsyncIterator[LogEngine]:
    """An empty log of 4 partitions a topic."""
    if request.param == "postgres":
        yield await postgres_log_engine(fresh_database, clock)
        return
    async with kafka_log_engine(request.getfixturevalue("kafka_servers")) as engine:
        yield engine


@pytest.fixture
async def log(log_engine: LogEngine) -> AsyncIterator[Log]:
    """One way to that log."""
    async with log_engine.open() as log:
        yield log


@pytest.fixture(params=["postgres", "rabbitmq", "rabbitmq-quorum"])
async def exchange_engine(
    request: pytest.FixtureRequest, fresh_database: FreshDatabase, rabbitmq: FreshVhost, clock: ManualClock
) -> AsyncIterator[ExchangeEngine]:
    """An empty exchange."""
    if request.param == "postgres":
        yield await postgres_exchange_engine(fresh_database, clock)
        return
    queue_type = "quorum" if request.param == "rabbitmq-quorum" else "classic"
    async with rabbitmq_exchange_engine(rabbitmq(), clock, queue_type) as engine:
        yield engine


@pytest.fixture
async def exchange(exchange_engine: ExchangeEngine) -> AsyncIterator[Exchange]:
    """One way to that exchange."""
    async with exchange_engine.open() as exchange:
        yield exchange


@pytest.fixture(params=["directory", "s3"])
async def store(request: pytest.FixtureRequest, objects: DirectoryObjects) -> AsyncIterator[Objects]:
    """Empty objects."""
    if request.param == "directory":
        yield objects
        return
    async with s3_objects(request.getfixturevalue("s3_settings")) as bucket:
        yield bucket
