"""The arrow `screen` on the embedded log: a screened record for each accepted one, contexts at their place, a state per lane."""

import pytest

from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_log import PostgresLog
from mesh.clock import ManualClock
from mesh.codec.log_records import ContextChange, read_dead, write_context
from mesh.codec.stamp import Stamp, write_stamp
from mesh.errors import Fault
from mesh.ports import Partition
from mesh.topics import BACKFILL, DEAD
from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.ingest.screening import (
    POISON,
    a_catalog,
    accept,
    accept_value,
    at_work,
    change,
    everything,
    folded_values,
    screened_records,
    screened_up_to,
    screened_values,
    screener,
)
from water.flags import GOOD, SUSPECT, unpack
from water.sites import Sensor

SECOND = 1_000_000


async def test_each_accepted_record_gives_exactly_one_screened_record(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log, readings = postgres_log, some_readings(50, 5)
    catalog = await a_catalog(objects, 1)
    stamp = write_stamp(Stamp("g-1", START_US, 50))
    await accept(log, readings, sequence=7)
    await change(log, catalog)
    await accept_value(log, POISON, headers=stamp)
    await accept_value(log, b"", headers=stamp)
    last = await accept(log, readings, sequence=8)
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, last)
    records = await screened_records(log)
    assert [(screened.source_offset, screened.previous_source_offset) for screened, _ in records] == [
        (0, -1),
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 3),
    ]
    assert [len(screened.readings) for screened, _ in records] == [50, 0, 0, 0, 50]
    assert [screened.context_version for screened, _ in records] == [(0, 0, 0)] + [(0, 1, 0)] * 4
    assert [set(headers) - {"source"} for _, headers in records] == [set(stamp), set(), set(), set(), set(stamp)]
    assert [headers["source"] for _, headers in records] == ["0:-1", "1:0", "2:1", "3:2", "4:3"]
    whole = records[0][0]
    assert (whole.gateway_id, whole.sequence, whole.region) == ("g-1", 7, "north")
    assert whole.readings.values.tobytes() == readings.values.tobytes()
    assert whole.readings.sensor_id.tolist() == readings.sensor_id.tolist()
    assert await screened_values(log) == await folded_values(log, objects)


async def test_a_record_that_cannot_be_read_is_dead_with_its_headers_before_its_empty_record(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log, partition = postgres_log, Partition(BACKFILL, 2)
    stamp = write_stamp(Stamp("g-9", START_US, 12))
    unknown = write_context(ContextChange(14, 1, "contexts/odd", "00"))
    await accept_value(log, POISON, partition, stamp)
    await accept_value(log, unknown, partition)
    last = await accept_value(log, POISON, partition, {"gateway": "g-9", "hour": "noon", "count": "12"})
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, last, partition)
    dead = await everything(log, Partition(DEAD, 2))
    read = [read_dead(stored.record.value) for stored in dead]
    assert [(one.stage, one.topic, one.partition, one.offset) for one in read] == [("screen", BACKFILL, 2, n) for n in range(3)]
    assert [(one.gateway_id, one.hour_us, one.reading_count) for one in read] == [("g-9", START_US, 12), ("", 0, 0), ("", 0, 0)]
    assert [one.content for one in read] == [POISON, unknown, POISON]
    assert all(one.problem for one in read)
    assert [dict(stored.record.headers) for stored in dead] == [stamp, {}, {}]


async def test_live_and_backfill_have_a_state_each(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log, backfill = postgres_log, Partition(BACKFILL, 0)
    step = readings_of((1, START_US, {"ph": 7.0}), (1, START_US + 60 * SECOND, {"ph": 7.0}))
    jump = a_reading(1, START_US + 120 * SECOND, ph=8.0)
    await accept(log, step)
    await accept(log, jump)
    await accept(log, jump, backfill)
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, 1)
        await screened_up_to(log, 0, backfill)
    live, late = (await screened_records(log))[-1][0], (await screened_records(log, backfill))[-1][0]
    assert live.readings.flags is not None
    assert late.readings.flags is not None
    assert unpack(live.readings.flags)[0].tolist() == [SUSPECT]
    assert unpack(late.readings.flags)[0].tolist() == [GOOD]


async def test_a_context_is_in_force_from_its_place_in_the_log_on_also_after_a_restart(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log = postgres_log
    minutes = [a_reading(1, START_US + minute * 60 * SECOND, ph=7.0 + minute % 2) for minute in range(6)]
    for readings in minutes[:2]:
        await accept(log, readings)
    await change(log, await a_catalog(objects, 2, Sensor(1, expected_period_s=10.0)))
    await change(log, await a_catalog(objects, 1, Sensor(1, expected_period_s=3600.0)))
    for readings in minutes[2:4]:
        await accept(log, readings)
    async with at_work(screener(log, objects, clock, checkpoint_records=5)):
        await screened_up_to(log, 5)
    for readings in minutes[4:]:
        await accept(log, readings)
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, 7)
    records = [screened for screened, _ in await screened_records(log) if len(screened.readings)]
    flags = [unpack(screened.readings.flags)[0, 0] for screened in records if screened.readings.flags is not None]
    assert flags == [GOOD, SUSPECT, GOOD, GOOD, GOOD, GOOD]  # a jump in a minute; then a minute is a gap
    assert [screened.context_version[1] for screened in records] == [0, 0, 2, 2, 2, 2]


async def test_a_context_whose_object_is_missing_stops_the_worker_until_it_is_there(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log = postgres_log
    catalog = await a_catalog(objects, 1)
    await accept(log, a_reading())
    await change(log, catalog)
    content = await objects.get(catalog.object_path)
    await objects.delete(catalog.object_path)
    with pytest.raises(Fault, match="CATALOG context version 1, object contexts/catalog/1: it is missing"):
        await screener(log, objects, clock).run()
    await objects.put(catalog.object_path, content + b"\x00")
    with pytest.raises(Fault, match="does not match the checksum"):
        await screener(log, objects, clock).run()
    await objects.delete(catalog.object_path)
    await objects.put(catalog.object_path, content)
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, 1)
    assert await screened_values(log) == await folded_values(log, objects)
