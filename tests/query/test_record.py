"""The recorder: every reading once, exactly as it was, with position and count in one transaction (laws 1, 3, 4, 5)."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from mesh.codec.stamp import Stamp, write_source, write_stamp
from mesh.ports import Partition, Record, Stored
from mesh.stages import Progress
from mesh.topics import SCREENED, SCREENED_BACKFILL
from query_svc.arrivals import cut
from query_svc.record import Record as Recorder
from query_svc.tables import VALUE_COLUMNS
from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.query.deployment import (
    HOUR_US,
    Deployment,
    FreshDatabase,
    a_recorder,
    deployed,
    flag,
    record_all,
    running,
    stored,
)
from water.readings import Readings, concatenate

VALUES = f"SELECT sensor_id, (extract(epoch FROM timestamp) * 1000000)::bigint, {', '.join(VALUE_COLUMNS)}, flags, region"


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


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


async def test_every_flush_moves_every_slot_even_without_readings(mesh: Deployment) -> None:
    await mesh.put(some_readings(0))
    await mesh.put(a_reading(1))
    await record_all(mesh)
    found = await mesh.rows("SELECT slot, \"offset\", source_offset FROM positions WHERE topic = 'screened' AND partition = 0")
    assert sorted(found) == [(slot, 1, 1) for slot in range(8)]


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


def test_a_delivery_is_cut_into_runs_of_at_most_50_000_readings() -> None:
    counts = [20_000, 20_000, 20_000, 60_000, 1, 0, 49_999, 1]
    records = [
        Stored(offset, Record(b"", write_source(offset, offset - 1) | (write_stamp(Stamp("g", 0, count)) if count else {})), 0)
        for offset, count in enumerate(counts)
    ]
    runs = cut(Partition(SCREENED, 0), records)
    assert [[stored.offset for stored in run] for run in runs] == [[0, 1], [2], [3], [4, 5, 6], [7]]
