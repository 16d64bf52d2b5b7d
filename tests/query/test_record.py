"""The recorder: every reading once, exactly as it was, with position and count in one transaction (laws 1, 3, 4, 5)."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from sqlalchemy import text

from mesh import positions
from mesh.codec.log_records import read_dead
from mesh.codec.stamp import Stamp, write_stamp
from mesh.errors import Fault, PositionLost, Unavailable
from mesh.ports import Partition, Record, Stored
from mesh.positions import NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import DEAD, SCREENED, SCREENED_BACKFILL
from query_svc.arrivals import cut
from query_svc.record import Record as Recorder
from query_svc.tables import VALUE_COLUMNS
from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.query.deployment import (
    HOUR_US,
    PATIENCE_S,
    SCREENED_0,
    Deployment,
    FreshDatabase,
    deployed,
    end,
    flag,
    running,
    sensors_of_shard,
    until,
)
from water.readings import Readings, concatenate

COUNTS = "SELECT count(*) FROM sensor_readings"
VALUES = f"SELECT sensor_id, (extract(epoch FROM timestamp) * 1000000)::bigint, {', '.join(VALUE_COLUMNS)}, flags, region"


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


def a_recorder(mesh: Deployment) -> Recorder:
    return Recorder(mesh.log, mesh.shards, Progress("record"))


async def record_all(mesh: Deployment) -> None:
    """A worker runs until everything that was put is recorded, and is then cancelled."""
    async with running(a_recorder(mesh).run):
        await mesh.all_recorded()


async def stored(mesh: Deployment) -> int:
    return sum(int(count) for (count,) in await mesh.rows(COUNTS))


async def test_a_stored_reading_is_bit_for_bit_the_one_that_came(mesh: Deployment) -> None:
    odd = np.array([0.1, -0.0, 3.4028235e38, 1.1754944e-38, 1e-45, 16_777_217.0, -5.000001, np.nan], np.float32)
    random = np.random.default_rng(3)
    readings = some_readings(400, sensors=[-(2**63), -1, 1, 2**63 - 1], absent=0.5)
    values = readings.values.copy()
    values[:, :8] = [np.roll(odd, turn) for turn in range(8)]
    flags = random.integers(0, 2**64 - 1, 400, dtype=np.uint64, endpoint=True)
    readings = Readings(readings.sensor_id, readings.measured_at_us, values, flags)
    await mesh.put(readings, region="north-east")
    await record_all(mesh)
    by_key = {(row[0], row[1]): row[2:] for row in await mesh.rows(f"{VALUES} FROM sensor_readings")}
    assert len(by_key) == 400
    for index, key in enumerate(zip(readings.sensor_id.tolist(), readings.measured_at_us.tolist(), strict=True)):
        *columns, packed, region = by_key[key]
        found = np.array([np.nan if value is None else value for value in columns], np.float32)
        assert found.tobytes() == np.where(np.isnan(values[:, index]), np.float32(np.nan), values[:, index]).tobytes()
        assert packed == flags[index].astype(np.int64)
        assert region == "north-east"


async def test_partners_sql_on_the_public_names_works(mesh: Deployment) -> None:
    failed = flag(a_reading(5, ph=17.0, turbidity_ntu=2.5), packed=4 | 1 << 4)
    await mesh.put(failed)
    await record_all(mesh)
    columns = "ph_level, turbidity, temperature, dissolved_oxygen, conductivity, disinfectant, redox, flow, region, flags"
    (row,) = await mesh.rows(f"SELECT {columns} FROM sensor_readings WHERE timestamp = '2026-01-01T00:00:00Z' AND flags & 15 = 4")
    assert row == (17.0, 2.5, None, None, None, None, None, None, "north", 4 | 1 << 4)


async def test_within_one_flush_the_first_stays_and_the_others_are_compared_with_it(mesh: Deployment) -> None:
    rows = readings_of(
        (1, START_US, {"ph": 7.0, "redox_mv": 600.0}),
        (1, START_US, {"ph": 7.0, "redox_mv": 600.0}),  # the same, NaN where NaN
        (1, START_US, {"ph": 7.0}),  # a value less is another value
        (1, START_US, {"ph": 7.5, "redox_mv": 600.0}),
        (1, START_US + 1, {"ph": 7.5, "redox_mv": 600.0}),
    )
    await mesh.put(rows)
    await record_all(mesh)
    assert await mesh.ledger() == {"stored": 2, "duplicate": 1, "conflicting": 2}
    assert sorted(await mesh.rows("SELECT ph_level, redox FROM sensor_readings")) == [(7.0, 600.0), (7.5, 600.0)]
    losers = await mesh.rows('SELECT ph_level, redox, topic, partition, "offset", index, log_id FROM conflicting_readings')
    place = ("screened", 0, 0)
    assert sorted(losers, key=lambda row: row[5]) == [
        (7.0, None, *place, 2, mesh.log.log_id),
        (7.5, 600.0, *place, 3, mesh.log.log_id),
    ]


async def test_rows_behind_a_head_that_loses_are_compared_with_the_row_that_is_there(mesh: Deployment) -> None:
    await mesh.put(concatenate([a_reading(1, ph=7.0), a_reading(2, ph=7.0)]))
    await record_all(mesh)
    await mesh.put(concatenate([a_reading(1, ph=8.0), a_reading(1, ph=8.0), a_reading(2, ph=8.0), a_reading(2, ph=7.0)]))
    await record_all(mesh)
    assert await mesh.ledger() == {"stored": 2, "conflicting": 3, "duplicate": 1}
    assert sorted(await mesh.rows("SELECT sensor_id, ph_level FROM sensor_readings")) == [(1, 7.0), (2, 7.0)]


async def test_new_readings_among_known_ones_are_stored_and_only_they(mesh: Deployment) -> None:
    first = some_readings(500, sensors=20, absent=0.3)
    await mesh.put(first)
    await record_all(mesh)
    changed = first.values.copy()
    changed[:, ::5] += 1.0
    changed[0, ::5] = 1.0
    again = Readings(first.sensor_id, first.measured_at_us, changed)
    await mesh.put(concatenate([some_readings(300, sensors=20, start=START_US + 1, absent=0.3), again]))
    await record_all(mesh)
    assert await mesh.ledger() == {"stored": 800, "duplicate": 400, "conflicting": 100}
    assert await stored(mesh) == 800


async def test_a_replay_of_everything_stores_nothing_and_counts_every_reading_as_duplicate(mesh: Deployment) -> None:
    readings = some_readings(2000, sensors=50, absent=0.2)
    for _ in range(2):
        for start in range(0, 2000, 250):
            await mesh.put(readings.take(np.arange(start, start + 250)))
        await record_all(mesh)
    assert await mesh.ledger() == {"stored": 2000, "duplicate": 2000}


async def test_a_restart_without_new_records_changes_nothing(mesh: Deployment) -> None:
    await mesh.put(some_readings(100))
    await record_all(mesh)
    before = await mesh.ledger()
    progress = Progress("record")
    async with running(Recorder(mesh.log, mesh.shards, progress).run):
        await mesh.put(a_reading(9_999))
        await mesh.all_recorded()
    assert await mesh.ledger() == {"stored": before["stored"] + 1}
    assert progress.handled_count == 1


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
    worker = asyncio.create_task(Recorder(mesh.log, mesh.shards, progress).run())

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


async def test_every_flush_moves_every_slot_even_without_readings(mesh: Deployment) -> None:
    await mesh.put(some_readings(0))
    await mesh.put(a_reading(1))
    await record_all(mesh)
    found = await mesh.rows("SELECT slot, \"offset\", source_offset FROM positions WHERE topic = 'screened' AND partition = 0")
    assert sorted(found) == [(slot, 1, 1) for slot in range(8)]


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


async def test_an_unreadable_record_without_a_source_header_stops_the_worker(mesh: Deployment) -> None:
    await mesh.append(SCREENED_0, b"\xff garbage", write_stamp(Stamp("g1", HOUR_US, 1)))
    with pytest.raises(Fault, match="neither by its value nor by its header"):
        await asyncio.wait_for(a_recorder(mesh).run(), PATIENCE_S)


async def test_partitions_that_race_for_the_same_keys_agree_on_one_row_each(mesh: Deployment) -> None:
    readings = some_readings(3000, sensors=300)
    lanes = [Partition(topic, number) for topic in (SCREENED, SCREENED_BACKFILL) for number in range(4)]
    for turn, partition in enumerate(lanes):
        shuffled = readings.take(np.random.default_rng(turn).permutation(3000))
        values = shuffled.values + np.float32(turn % 2)  # two versions of each reading
        for start in range(0, 3000, 500):
            part = Readings(shuffled.sensor_id, shuffled.measured_at_us, values).take(np.arange(start, start + 500))
            await mesh.put(part, partition, gateway=f"g{turn}")
    async with running(*(a_recorder(mesh).run for _ in range(4))):
        await mesh.all_recorded()
    ledger = await mesh.ledger()
    assert await stored(mesh) == ledger["stored"] == 3000
    assert ledger["duplicate"] == 3 * 3000
    assert ledger["conflicting"] == 4 * 3000
    unequal = """SELECT count(*) FILTER (WHERE abs(c.ph_level - r.ph_level) BETWEEN 0.9 AND 1.1), count(*)
                 FROM conflicting_readings c JOIN sensor_readings r USING (sensor_id, timestamp)"""
    assert [sum(column) for column in zip(*await mesh.rows(unequal), strict=True)] == [12_000, 12_000]


async def test_the_ledger_counts_by_the_gateway_and_hour_of_each_record(mesh: Deployment) -> None:
    await mesh.put(some_readings(10), gateway="a")
    await mesh.put(some_readings(10), gateway="b", hour_us=HOUR_US + 3_600_000_000)
    await record_all(mesh)
    rows = await mesh.rows("SELECT gateway_id, hour_us, measure, count FROM ledger")
    sums: dict[tuple[str, int, str], int] = {}
    for gateway, hour, measure, count in rows:
        sums[gateway, hour, measure] = sums.get((gateway, hour, measure), 0) + count
    assert sums == {("a", HOUR_US, "stored"): 10, ("b", HOUR_US + 3_600_000_000, "duplicate"): 10}


async def test_a_sensor_is_entered_once_per_region_with_its_earliest_time(mesh: Deployment) -> None:
    async with running(a_recorder(mesh).run):
        await mesh.put(readings_of((1, START_US + 9, {"ph": 7.0}), (1, START_US + 4, {"ph": 7.0})))
        await mesh.put(a_reading(1, at=START_US + 100), region="south")
        await mesh.put(a_reading(1, at=START_US + 200))
        await mesh.all_recorded()
    seen = await mesh.rows("SELECT sensor_id, region, (extract(epoch FROM first_time) * 1000000)::bigint FROM sensors_seen")
    assert sorted(seen) == [(1, "north", START_US + 4), (1, "south", START_US + 100)]


async def test_a_shard_whose_connection_breaks_makes_the_worker_end_unavailable(mesh: Deployment) -> None:
    progress = Progress("record")
    worker = asyncio.create_task(Recorder(mesh.log, mesh.shards, progress).run())
    async with mesh.shards.engines[0].connect() as blocker:
        await blocker.execute(text("LOCK TABLE sensor_readings IN SHARE MODE"))
        await mesh.put(some_readings(100, sensors=100))
        kill = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock'"""

        async def killed() -> bool:
            async with transaction(mesh.shards.engines[0]) as connection:  # a new one: it shows the same activity until its end
                return bool((await connection.execute(text(kill))).scalar_one())

        await until(killed)
        await blocker.rollback()
    with pytest.raises(Unavailable, match="is away"):
        await asyncio.wait_for(worker, PATIENCE_S)
    await record_all(mesh)
    assert await mesh.ledger() == {"stored": 100}


def test_a_delivery_is_cut_into_runs_of_at_most_50_000_readings() -> None:
    counts = [20_000, 20_000, 20_000, 60_000, 1, 0, 49_999, 1]
    records = [
        Stored(offset, Record(b"", write_stamp(Stamp("g", 0, count)) if count else {}), 0) for offset, count in enumerate(counts)
    ]
    assert [[stored.offset for stored in run] for run in cut(records)] == [[0, 1], [2], [3], [4, 5, 6], [7]]
