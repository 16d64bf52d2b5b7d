"""Restored readings reach the shards as they were, once, and leave alone what is there (laws 4, 5)."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from sqlalchemy import text

from mesh.codec.log_records import read_dead
from mesh.codec.restored_records import RestoredReadings, read_restored, write_restored
from mesh.errors import InvalidArgument, PositionLost, Unavailable
from mesh.ports import Partition
from mesh.positions import NOWHERE, Position, move
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.tokens import write_position
from mesh.topics import ACCEPTED, DEAD, RESTORED
from query_svc import catalog_tables
from query_svc.freshness import Freshness, wait_until_readable
from query_svc.record_restored import RecordRestored
from query_svc.sight import Sight
from query_svc.tables import VALUE_COLUMNS
from tests.builders import START_US, a_reading, some_readings
from tests.query.deployment import (
    PATIENCE_S,
    Deployment,
    FreshDatabase,
    deployed,
    end,
    flag,
    record_all,
    running,
    stored,
    until,
)
from tests.query.shard_trouble import freeze
from water.readings import Readings

RESTORED_0 = Partition(RESTORED, 0)
ROWS = f"SELECT sensor_id, timestamp, {', '.join(VALUE_COLUMNS)}, flags, region FROM sensor_readings"


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


async def restore(mesh: Deployment, readings: Readings, number: int = 0, region: str = "north", path: str = "a") -> int:
    """One restored record; its offset."""
    flagged = readings if readings.flags is not None else flag(readings)
    return await mesh.append(Partition(RESTORED, number), write_restored(RestoredReadings(region, path, flagged)))


async def all_restored(mesh: Deployment) -> None:
    wanted = {partition: span.next - 1 for partition, span in (await mesh.log.ends((RESTORED,))).items()}
    assert await mesh.recorded.wait_for(wanted, PATIENCE_S)


async def record_restored(mesh: Deployment) -> None:
    """A worker runs until everything is recorded, and is then cancelled."""
    async with running(RecordRestored(mesh.log, mesh.shards, Progress("record_restored")).run):
        await all_restored(mesh)


async def counts(mesh: Deployment) -> dict[str, tuple[int, int]]:
    """(stored, known) of each object, over all shards."""
    sums: dict[str, tuple[int, int]] = {}
    for path, stored_count, known in await mesh.rows("SELECT path, stored, known FROM restored_objects"):
        before = sums.get(path, (0, 0))
        sums[path] = (before[0] + stored_count, before[1] + known)
    return sums


async def test_while_a_slot_is_moved_it_waits_and_then_writes_where_the_slot_is(mesh: Deployment) -> None:
    readings = some_readings(100, sensors=50)
    await restore(mesh, readings)
    await freeze(mesh.shards.engines[1], 5)
    with pytest.raises(Unavailable, match=r"slots \[5\] cannot be written now: they are being moved"):
        await asyncio.wait_for(RecordRestored(mesh.log, mesh.shards, Progress("record_restored")).run(), PATIENCE_S)
    assert await stored(mesh) == 0
    await freeze(mesh.shards.engines[1], 5, writable=True)
    worker = asyncio.create_task(RecordRestored(mesh.log, mesh.shards, Progress("record_restored")).run())
    await all_restored(mesh)
    await freeze(mesh.shards.engines[1], 6)
    await restore(mesh, other := some_readings(100, sensors=50, start=START_US + 10**12), path="b")
    with pytest.raises(Unavailable, match=r"slots \[6\] cannot be written now"):
        await asyncio.wait_for(worker, PATIENCE_S)
    await freeze(mesh.shards.engines[1], 6, writable=True)
    await record_restored(mesh)
    assert await stored(mesh) == 200 == len(readings) + len(other)
    assert await counts(mesh) == {"a": (100, 0), "b": (100, 0)}


def test_a_restored_record_comes_back_as_it_was() -> None:
    readings = some_readings(50, absent=0.5)
    readings = readings.with_flags(np.arange(50, dtype=np.uint64) << np.uint64(58))
    found = read_restored(write_restored(RestoredReadings("north", "a/b", readings)))
    assert (found.region, found.object_path) == ("north", "a/b")
    assert found.readings.values.tobytes() == readings.values.tobytes()
    assert found.readings.flags is not None
    assert readings.flags is not None
    assert found.readings.flags.tolist() == readings.flags.tolist()
    for broken in (b"\xff\xff", b"", write_restored(RestoredReadings("north", "", readings))):
        with pytest.raises(InvalidArgument) as refused:
            read_restored(broken)
        assert refused.value.reason == "UNREADABLE_RECORD"


async def test_restored_readings_are_exactly_those_that_were_recorded_elsewhere(
    mesh: Deployment, fresh_database: FreshDatabase
) -> None:
    readings = some_readings(3000, sensors=50, absent=0.5)
    readings = readings.with_flags(np.random.default_rng(1).integers(0, 2**64, 3000, dtype=np.uint64))
    await mesh.put(readings, region="north-east")
    await record_all(mesh)
    async with deployed(fresh_database) as other:
        await restore(other, readings, region="north-east")
        await record_restored(other)
        assert sorted(await other.rows(ROWS)) == sorted(await mesh.rows(ROWS))
        seen = "SELECT * FROM sensors_seen ORDER BY 1"
        assert sorted(await other.rows(seen)) == sorted(await mesh.rows(seen))
        assert await counts(other) == {"a": (3000, 0)}
        assert await other.ledger() == {}, "restored readings are outside the ledger"


async def test_what_is_there_stays_and_is_counted_as_known(mesh: Deployment) -> None:
    await mesh.put(a_reading(1, ph=7.0))
    await record_all(mesh)
    before, losers = await mesh.rows(ROWS), "SELECT 1 FROM conflicting_readings"
    await restore(mesh, a_reading(1, ph=8.0), path="b")
    await restore(mesh, some_readings(20, sensors=[2]), path="b")
    await restore(mesh, some_readings(20, sensors=[2]), path="c", number=1)
    await record_restored(mesh)
    assert before[0] in await mesh.rows(ROWS)
    assert await mesh.rows(losers) == []
    assert await stored(mesh) == 21
    found = await counts(mesh)
    assert {path: sum(both) for path, both in found.items()} == {"b": 21, "c": 20}
    assert sum(stored_count for stored_count, _ in found.values()) == 20
    assert (await mesh.ledger())["stored"] == 1


async def test_of_one_record_the_first_of_a_key_stays(mesh: Deployment) -> None:
    twice = flag(some_readings(2, sensors=[5], period_s=0.0))
    values = twice.values.copy()
    values[0] = [6.0, 9.0]
    await restore(mesh, Readings(twice.sensor_id, twice.measured_at_us, values, twice.flags))
    await record_restored(mesh)
    assert [row[2] for row in await mesh.rows(ROWS)] == [6.0]
    assert await counts(mesh) == {"a": (1, 1)}


async def test_a_crash_between_two_shards_loses_and_doubles_nothing(mesh: Deployment) -> None:
    for number in range(4):
        await restore(mesh, some_readings(500, sensors=100, start=START_US + number * 10**9), number)
    async with mesh.shards.engines[1].connect() as blocker:
        await blocker.execute(text("LOCK TABLE sensor_readings IN SHARE MODE"))
        async with running(RecordRestored(mesh.log, mesh.shards, Progress("record_restored")).run) as (task,):

            async def other_is_written() -> bool:
                async with transaction(mesh.shards.engines[0]) as connection:
                    return bool((await connection.execute(text("SELECT count(*) FROM sensor_readings"))).scalar_one())

            await until(other_is_written)
            await end(task)
        await blocker.rollback()
    assert 0 < await stored(mesh) < 2000
    await record_restored(mesh)
    assert await stored(mesh) == 2000
    assert await counts(mesh) == {"a": (2000, 0)}


async def test_a_worker_whose_position_was_moved_writes_nothing(mesh: Deployment) -> None:
    progress = Progress("record_restored")
    worker = asyncio.create_task(RecordRestored(mesh.log, mesh.shards, progress).run())

    async def began() -> bool:
        return RESTORED_0 in progress.next_offset

    await until(began)
    for shard, engine in mesh.shards.engines.items():
        async with transaction(engine) as connection:
            owned = dict.fromkeys(mesh.shards.slots_of_shard(shard), NOWHERE)
            await move(connection, "record", mesh.log.log_id, RESTORED_0, owned, Position(0, -1))
    await restore(mesh, some_readings(10))
    await restore(mesh, some_readings(10))
    with pytest.raises(PositionLost):
        await asyncio.wait_for(worker, PATIENCE_S)
    assert await stored(mesh) == 0


async def test_an_unreadable_record_is_buried_for_nobody_and_the_next_ones_go_on(mesh: Deployment) -> None:
    offset = await mesh.append(RESTORED_0, b"\xff garbage", {"gateway": "forged", "hour": "0", "count": "7"})
    await restore(mesh, a_reading(1), region="x" * 21)
    await restore(mesh, a_reading(2))
    await record_restored(mesh)
    assert await stored(mesh) == 1
    buried = await mesh.log.read(Partition(DEAD, 0), 0, 10)
    first, second = (read_dead(record.record.value) for record in buried)
    assert (first.stage, first.topic, first.offset, first.content) == ("record_restored", RESTORED, offset, b"\xff garbage")
    assert (first.gateway_id, first.hour_us, first.reading_count) == ("", 0, 0)
    assert "at most 20 characters" in second.problem
    assert all(not record.record.headers for record in buried)


async def test_a_reader_may_wait_for_the_position_of_what_was_restored(mesh: Deployment) -> None:
    offset = await restore(mesh, some_readings(10), 3)
    token = write_position(mesh.log.log_id, RESTORED, 3, offset)
    asked = Freshness((token,), 20.0)
    waiting = asyncio.create_task(wait_until_readable(mesh.recorded, mesh.log.log_id, asked))
    async with running(RecordRestored(mesh.log, mesh.shards, Progress("record_restored")).run):
        await waiting
    assert await stored(mesh) == 10
    assert Partition(ACCEPTED, 3) not in await mesh.recorded.offsets()


async def test_restored_sensors_are_entered_on_first_sight(mesh: Deployment) -> None:
    await catalog_tables.create_tables(mesh.catalog)
    await mesh.append(RESTORED_0, b"\xff garbage")
    await restore(mesh, a_reading(5, ph=7.0, flow_m3_h=1.0))
    seen = "SELECT sensor_id, parameters FROM catalog.sensors WHERE first_sight"

    async def entered() -> bool:
        return await mesh.catalog_rows(seen) == [(5, 1 | 1 << 7)]

    async with running(Sight(mesh.log, mesh.catalog, Progress("sight")).run):
        await until(entered)
