"""Slots and shards: the same slot as PostgreSQL for every bigint, and no reading in a shard that does not own it."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

import mesh.shards
from mesh.errors import Fault, SetupError, Unavailable
from mesh.shards import open_engine, slot_of, spread, transaction
from query_svc.tables import create_shard_tables

FreshDatabase = Callable[[], Awaitable[str]]
EXTREMES = [-(2**63), 2**63 - 1, 0, -1, 1, 2**32, -(2**32), 2**31, -(2**31) - 1]


async def test_the_slot_of_any_bigint_is_the_servers_own(fresh_database: FreshDatabase) -> None:
    random = np.random.default_rng(7)
    drawn = random.integers(-(2**63), 2**63 - 1, 20_000, dtype=np.int64, endpoint=True)
    sensors = np.concatenate([drawn, np.arange(-3_000, 3_000), np.array(EXTREMES, np.int64)])
    engine = open_engine(await fresh_database(), 1)
    async with transaction(engine) as connection:
        await connection.execute(text("CREATE TABLE t (id bigint) PARTITION BY HASH (id)"))
        for slots in (8, 320, 7):
            slot = slot_of(sensors, slots)
            right = await connection.execute(
                text(
                    "SELECT bool_and(satisfies_hash_partition('t'::regclass, :slots, slot, id)) "
                    "FROM unnest(CAST(:ids AS bigint[]), CAST(:of AS int[])) AS s (id, slot)"
                ),
                {"slots": slots, "ids": sensors.tolist(), "of": slot.tolist()},
            )
            assert right.scalar_one() is True
    await engine.dispose()


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(1, 4096))
def test_every_sensor_has_one_slot_whatever_its_company(ids: list[int], slots: int) -> None:
    together = slot_of(np.array(ids, np.int64), slots)
    assert together.tolist() == [int(slot_of(np.array([one], np.int64), slots)[0]) for one in ids]
    assert all(0 <= slot < slots for slot in together.tolist())


def test_the_shards_of_a_new_deployment_own_every_slot_once() -> None:
    shards = spread(320, tuple(open_engine("postgresql+psycopg:///x", 1) for _ in range(32)))
    owned = [shards.slots_of_shard(shard) for shard in range(32)]
    assert sorted(slot for slots in owned for slot in slots) == list(range(320))
    assert {len(slots) for slots in owned} == {10}


async def test_the_database_itself_refuses_a_reading_of_another_shard(fresh_database: FreshDatabase) -> None:
    engine = open_engine(await fresh_database(), 1)
    shards = spread(8, (engine, engine))
    await create_shard_tables(engine, 8, shards.slots_of_shard(0))
    sensors = np.arange(1, 100)
    ours, theirs = (int(sensors[shards.of(sensors) == shard][0]) for shard in (0, 1))
    insert = text("INSERT INTO sensor_readings (sensor_id, timestamp, region, flags) VALUES (:sensor, now(), 'north', 0)")
    async with transaction(engine) as connection:
        await connection.execute(insert, {"sensor": ours})
    with pytest.raises(IntegrityError, match="no partition"):
        async with transaction(engine) as connection:
            await connection.execute(insert, {"sensor": theirs})
    await engine.dispose()


async def test_making_tables_again_changes_nothing_and_another_slot_count_is_refused(fresh_database: FreshDatabase) -> None:
    engine = open_engine(await fresh_database(), 2)
    await create_shard_tables(engine, 8, [0, 1, 2, 3])
    await create_shard_tables(engine, 8, [0, 1, 2, 3])
    with pytest.raises(SetupError, match="slots = 16, but this shard was made with 8"):
        await create_shard_tables(engine, 16, [0, 1])
    await engine.dispose()


async def test_a_statement_that_waits_for_a_lock_is_given_up(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh.shards, "STATEMENT_TIMEOUT_S", 0.2)
    engine = open_engine(await fresh_database(), 2)
    async with transaction(engine) as holder:
        await holder.execute(text("SELECT pg_advisory_xact_lock(1)"))
        with pytest.raises(Unavailable, match="timeout"):
            async with asyncio.timeout(10), transaction(engine) as connection:
                await connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
    await engine.dispose()


async def test_gather_answers_in_order_and_shows_our_own_error() -> None:
    shards = spread(6, tuple(open_engine("postgresql+psycopg:///x", 1) for _ in range(3)))

    async def name(shard: int, _: AsyncEngine) -> str:
        return f"shard {shard}"

    async def fail(shard: int, _: AsyncEngine) -> None:
        raise Fault("ours") if shard == 2 else ValueError("theirs")

    assert await shards.gather(name) == ["shard 0", "shard 1", "shard 2"]
    assert await shards.gather(name, [2, 0]) == ["shard 2", "shard 0"]
    with pytest.raises(Fault, match="ours"):
        await shards.gather(fail)


async def test_a_database_that_is_away_is_unavailable() -> None:
    engine = open_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", 1)
    with pytest.raises(Unavailable, match="database none is away"):
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT 1"))
    await engine.dispose()
