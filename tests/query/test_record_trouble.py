"""The recorder in trouble: crashes, zombies, holes and unreadable records lose and double nothing (laws 4, 12)."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from mesh import positions
from mesh.codec.log_records import read_dead
from mesh.codec.stamp import Stamp, write_stamp
from mesh.errors import Fault, PositionLost
from mesh.ports import Partition
from mesh.positions import NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import DEAD
from tests.builders import a_reading, some_readings
from tests.query.deployment import (
    HOUR_US,
    PATIENCE_S,
    SCREENED_0,
    Deployment,
    FreshDatabase,
    a_recorder,
    deployed,
    end,
    record_all,
    running,
    sensors_of_shard,
    stored,
    until,
)

COUNTS = "SELECT count(*) FROM sensor_readings"


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


@pytest.mark.parametrize("late", [0, 1])
async def test_a_crash_between_two_shards_loses_and_doubles_nothing(mesh: Deployment, late: int) -> None:
    await mesh.put(some_readings(1000, sensors=100))
    async with mesh.shards.engines[late].connect() as blocker:
        await blocker.execute(text("LOCK TABLE sensor_readings IN SHARE MODE"))
        async with running(a_recorder(mesh).run) as (task,):

            async def other_is_written() -> bool:
                async with transaction(mesh.shards.engines[1 - late]) as connection:
                    return bool((await connection.execute(text(COUNTS))).scalar_one())

            await until(other_is_written)
            await end(task)
        await blocker.rollback()
    half = await stored(mesh)
    assert 0 < half < 1000
    await record_all(mesh)
    assert await stored(mesh) == 1000
    assert await mesh.ledger() == {"stored": 1000}


async def test_a_worker_whose_position_was_moved_by_another_writes_nothing_and_ends(mesh: Deployment) -> None:
    progress = Progress("record")
    worker = asyncio.create_task(a_recorder(mesh, progress).run())

    async def began() -> bool:
        return SCREENED_0 in progress.next_offset

    await until(began)
    async with transaction(mesh.shards.engines[1]) as connection:
        owned = dict.fromkeys(mesh.shards.slots_of_shard(1), NOWHERE)
        await positions.move(connection, "record", mesh.log.log_id, SCREENED_0, owned, Position(5, 5))
    await mesh.put(some_readings(1, sensors=sensors_of_shard(mesh.shards, 1, 1)))
    with pytest.raises(PositionLost):
        await asyncio.wait_for(worker, PATIENCE_S)
    assert await stored(mesh) == 0


async def test_of_two_that_move_one_position_at_once_one_wins(mesh: Deployment) -> None:
    engine = mesh.catalog
    start = NOWHERE
    for step in range(5):

        async def move(offset: int, start: Position = start) -> bool:
            try:
                async with transaction(engine) as connection:
                    await positions.move(connection, "s", "log", SCREENED_0, {1: start, 2: start}, Position(offset, offset))
            except PositionLost:
                return False
            return True

        offsets = [10 * step + number for number in range(1, 5)]
        won = await asyncio.gather(*(move(offset) for offset in offsets))
        assert sum(won) == 1
        start = Position(offsets[won.index(True)], offsets[won.index(True)])
    async with transaction(engine) as connection:
        assert set((await positions.read(connection, "s", "log", ["screened"])).values()) == {start}


async def test_a_record_that_was_had_is_dropped_and_a_hole_stops_the_worker(mesh: Deployment) -> None:
    await mesh.put(a_reading(1))
    await mesh.put(a_reading(2), source=0, previous=-1)  # a screener's second try of source offset 0
    await mesh.put(a_reading(3), source=1, previous=0)
    await record_all(mesh)
    assert sorted(await mesh.rows("SELECT sensor_id FROM sensor_readings")) == [(1,), (3,)]
    await mesh.put(a_reading(4), source=7, previous=6)
    with pytest.raises(Fault, match="follows source offset 6, but 1 was had last"):
        await asyncio.wait_for(a_recorder(mesh).run(), PATIENCE_S)
    assert await stored(mesh) == 2


async def test_an_unreadable_record_is_buried_by_its_headers_and_the_next_ones_go_on(mesh: Deployment) -> None:
    await mesh.put(a_reading(1))
    offset = await mesh.put(some_readings(7), value=b"\xff garbage", gateway="g7")
    await mesh.put(a_reading(2), region="x" * 21)
    await mesh.put(a_reading(3))
    await record_all(mesh)
    assert sorted(await mesh.rows("SELECT sensor_id FROM sensor_readings")) == [(1,), (3,)]
    first, second = (read_dead(record.record.value) for record in await mesh.log.read(Partition(DEAD, 0), 0, 10))
    assert (first.stage, first.topic, first.partition, first.offset) == ("record", "screened", 0, offset)
    assert (first.gateway_id, first.hour_us, first.reading_count, first.content) == ("g7", HOUR_US, 7, b"\xff garbage")
    assert "at most 20 characters" in second.problem


async def test_a_record_that_no_screener_wrote_is_passed_by_and_stops_nobody(mesh: Deployment) -> None:
    await mesh.put(a_reading(1))
    await mesh.append(SCREENED_0, b"\xff garbage", write_stamp(Stamp("g1", HOUR_US, 1)))
    await mesh.append(SCREENED_0, b"\xff garbage", {"source": "nowhere"})
    await mesh.put(a_reading(2))
    await record_all(mesh)
    assert await stored(mesh) == 2


async def test_a_shard_whose_connection_breaks_is_written_again_and_nothing_is_lost(mesh: Deployment) -> None:
    async with running(a_recorder(mesh).run):
        async with mesh.shards.engines[0].connect() as blocker:
            await blocker.execute(text("LOCK TABLE sensor_readings IN SHARE MODE"))
            await mesh.put(some_readings(100, sensors=100))
            kill = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event_type = 'Lock'"""

            async def killed() -> bool:
                async with transaction(mesh.shards.engines[0]) as connection:  # a new one: it shows the same until its end
                    return bool((await connection.execute(text(kill))).scalar_one())

            await until(killed)
            await blocker.rollback()
        await mesh.all_recorded()
    assert await mesh.ledger() == {"stored": 100}
