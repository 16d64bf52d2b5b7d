"""What the embedded Exchange promises beyond the port: a full queue says so, and tables of an older version are brought up."""

import psycopg
import pytest

from mesh.adapters.postgres_exchange import PostgresExchange, open_postgres_exchange
from mesh.clock import ManualClock
from mesh.errors import Unavailable
from mesh.ports import Priority
from tests.conftest import FreshDatabase
from tests.contract.engines import libpq
from tests.contract.test_exchange import soon
from tests.query.deployment import running, until


async def test_a_full_queue_takes_no_more_until_its_workers_have_caught_up(
    fresh_database: FreshDatabase, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.adapters.postgres_exchange.DEPTH_LIMIT", 5)
    monkeypatch.setattr("mesh.adapters.postgres_exchange._DEPTH_CHECK_S", 0.01)
    async with open_postgres_exchange(await fresh_database(), clock) as exchange:
        await until(lambda: _is_full(exchange, True))
        await exchange.publish(Priority.LOW, b"has a queue of its own")
        async with running(lambda: _catch_up(exchange)):
            await until(lambda: _is_full(exchange, False))


async def _catch_up(exchange: PostgresExchange) -> None:
    async with exchange.take(Priority.HIGH, 1) as tasks:
        async for task in tasks:
            await task.done()


async def _is_full(exchange: PostgresExchange, full: bool) -> bool:
    """Tells it by trying; what is tried fills it."""
    try:
        await exchange.publish(Priority.HIGH, b"task")
    except Unavailable as error:
        return full and error.reason == "QUEUE_FULL"
    return not full


async def test_tables_of_the_version_before_are_brought_up_with_their_tasks(
    fresh_database: FreshDatabase, clock: ManualClock
) -> None:
    url = await fresh_database()
    async with open_postgres_exchange(url, clock) as exchange:
        await exchange.publish(Priority.HIGH, b"task")
    async with await psycopg.AsyncConnection.connect(libpq(url), autocommit=True) as connection:
        await connection.execute("ALTER TABLE exchange.tasks DROP COLUMN deaths")
    async with open_postgres_exchange(url, clock) as exchange, exchange.take(Priority.HIGH, 1) as tasks:
        task = await soon(tasks)
        assert (task.body, task.attempt) == (b"task", 1)
