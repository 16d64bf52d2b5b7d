"""Rows by binary COPY: exact, within their time, and with a connection that is as good as before whatever happened."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.postgres_copy import Kind, copy_out
from mesh.errors import Fault, TooLarge, Unavailable
from mesh.shards import open_engine, transaction
from tests.conftest import FreshDatabase

_STATEMENT_TIMEOUT = "SELECT setting, reset_val FROM pg_settings WHERE name = 'statement_timeout'"
ONE: list[tuple[str, Kind]] = [("n", "bigint")]


@pytest.fixture
async def engine(fresh_database: FreshDatabase) -> AsyncIterator[AsyncEngine]:
    """With one connection, so that the next query uses what the last one left."""
    made = open_engine(await fresh_database(), 1)
    yield made
    await made.dispose()


async def settings_are_as_before(engine: AsyncEngine) -> bool:
    async with transaction(engine) as connection:
        (now, usual) = (await connection.execute(text(_STATEMENT_TIMEOUT))).one()
    return bool(now == usual)


async def test_every_kind_comes_back_bit_for_bit(engine: AsyncEngine) -> None:
    query = """
        SELECT n, timestamptz 'epoch' + n * interval '1 microsecond', (n::real / 3::real), n::double precision / 3, n::int,
               rpad('north-' || n, 20) FROM unnest(%(numbers)s::bigint[]) AS n"""
    kinds: tuple[Kind, ...] = ("bigint", "timestamptz", "real", "double precision", "int", "text20")
    columns = list(zip(("n", "at", "r", "d", "i", "t"), kinds, strict=True))
    numbers = [-2_000_000_000, -1, 0, 1, 1_767_225]
    found = await copy_out(engine, query, {"numbers": numbers}, columns, 5)
    assert found["n"].tolist() == found["at"].tolist() == found["i"].tolist() == numbers
    assert found["r"].tolist() == (np.array(numbers, np.float32) / np.float32(3)).tolist()
    assert found["d"].tolist() == [number / 3 for number in numbers]
    assert found["t"].tolist() == [f"north-{number}".encode() for number in numbers]
    assert all(column.dtype.isnative for column in found.values())


async def test_no_rows_are_empty_columns_and_many_rows_are_all_there(engine: AsyncEngine) -> None:
    for count in (0, 1, 200_000):
        found = await copy_out(engine, "SELECT generate_series(1, %(count)s)::bigint", {"count": count}, ONE, 5)
        assert np.array_equal(found["n"], np.arange(1, count + 1))


async def test_a_query_that_takes_too_long_is_ended_by_the_database(engine: AsyncEngine) -> None:
    slow = "SELECT 1::bigint FROM pg_sleep(30)"
    with pytest.raises(TooLarge) as caught:
        await copy_out(engine, slow, {}, ONE, 0.05)
    assert caught.value.reason == "QUERY_TOO_LONG"
    assert await settings_are_as_before(engine)


async def test_a_caller_that_gives_up_leaves_a_connection_that_works(engine: AsyncEngine) -> None:
    endless = "SELECT n::bigint FROM generate_series(1, 1000000000) AS n"
    for query in ("SELECT 1::bigint FROM pg_sleep(30)", endless):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await copy_out(engine, query, {}, ONE, 60)
        assert (await copy_out(engine, "SELECT 7::bigint", {}, ONE, 5))["n"].tolist() == [7]
        assert await settings_are_as_before(engine)


async def test_null_and_wrong_widths_are_our_fault_and_never_wrong_values(engine: AsyncEngine) -> None:
    for query in ("SELECT NULL::bigint", "SELECT 1::int", "SELECT 1::bigint, 2::bigint FROM generate_series(1, 7)"):
        with pytest.raises(Fault):
            await copy_out(engine, query, {}, ONE, 5)


async def test_what_is_away_or_moved_away_is_unavailable(engine: AsyncEngine) -> None:
    with pytest.raises(Unavailable) as caught:
        await copy_out(engine, "SELECT count('gone'::regclass)", {}, ONE, 5)
    assert caught.value.reason == "SHARD_MOVED"
    nowhere = open_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing", 1)
    with pytest.raises(Unavailable) as caught:
        await copy_out(nowhere, "SELECT 1::bigint", {}, ONE, 5)
    assert caught.value.reason == "DATABASE_AWAY"
