"""The arrow `screen` on the embedded log: one record for each, the same after any crash, on any number of screeners (law 6)."""

import asyncio
import hashlib
import random

import numpy as np
import psycopg
import pytest

from ingest_svc.checkpoint import Checkpoint, write_checkpoint
from ingest_svc.lane import THREAD_FROM_READINGS
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_connections import conninfo_of
from mesh.adapters.postgres_log import PostgresLog, open_postgres_log
from mesh.clock import ManualClock
from mesh.codec.catalog import write_catalog
from mesh.codec.log_records import ContextChange, ContextKind, read_dead, write_context
from mesh.codec.stamp import Stamp, write_stamp
from mesh.errors import Fault, Unavailable
from mesh.ports import Partition
from mesh.topics import ACCEPTED, BACKFILL, DEAD, SCREENED
from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.conftest import FreshDatabase
from tests.ingest.screening import (
    FIRST,
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
    until,
)
from water.flags import GOOD, SUSPECT, unpack
from water.sites import Sensor
from water.state import State

SECOND = 1_000_000
POISON = b"\xff\xff not a record"


def a_sensor(sensor_id: int, expected_period_s: float) -> Sensor:
    """A sensor that a person has described."""
    return Sensor(sensor_id=sensor_id, expected_period_s=expected_period_s)


async def a_catalog(objects: DirectoryObjects, version: int, *sensors: Sensor) -> ContextChange:
    """A catalog context whose object is there."""
    content = write_catalog([], sensors)
    path = f"contexts/catalog/{version}"
    await objects.put(path, content)
    return ContextChange(ContextKind.CATALOG, version, path, hashlib.sha256(content).hexdigest())


async def some_accepted(log: PostgresLog, count: int, partition: Partition = FIRST, seed: int = 0) -> int:
    """Records of a restless fleet, poison and late readings among them; the last offset."""
    chance = random.Random(seed)
    readings = some_readings(count * 20, 7, seed=seed, period_s=300, absent=0.2)
    readings.values[np.random.default_rng(seed).random(readings.values.shape) < 0.05] *= 1.7
    offset = -1
    for number in range(count):
        if chance.random() < 0.1:
            await accept_value(log, POISON, partition, write_stamp(Stamp("g-1", START_US, 20)))
        start = max(0, number - chance.randrange(3)) * 20
        offset = await accept(log, readings.take(np.arange(start, start + 20)), partition, number)
    return offset


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


@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_any_moment_it_goes_on_with_the_same_bytes(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock, seed: int
) -> None:
    log, chance = postgres_log, random.Random(seed)
    last = await some_accepted(log, 60, seed=seed)
    for _ in range(12):
        async with at_work(screener(log, objects, clock, checkpoint_records=7)):
            for _ in range(chance.choice((0, 20, 200, 1000))):
                await asyncio.sleep(0)
    async with at_work(screener(log, objects, clock, checkpoint_records=7)):
        await screened_up_to(log, last)
    assert await screened_values(log) == await folded_values(log, objects)
    assert {read_dead(one.record.value).offset for one in await everything(log, Partition(DEAD, 0))} == {
        one.offset for one in await everything(log, FIRST) if one.record.value == POISON
    }


async def test_after_a_checkpoint_the_records_before_it_are_not_needed_any_more(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log, moved = postgres_log, list[tuple[Partition, int]]()

    async def move(partition: Partition, offset: int) -> None:
        last = await log.last(Partition(SCREENED, partition.number))
        assert last is not None
        assert last.record.headers["source"].startswith(f"{offset}:")
        moved.append((partition, offset))

    await some_accepted(log, 15)
    half = (await log.ends([ACCEPTED]))[FIRST].next - 1
    async with at_work(screener(log, objects, clock, checkpoint_records=half + 1, moved=move)):
        await until(lambda: _is(moved == [(FIRST, half)]))
    await some_accepted(log, 15, seed=1)
    expected = await folded_values(log, objects)
    clock.advance(3600)
    assert await log.trim(FIRST, half + 1, clock.now_us()) == half + 1
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, (await log.ends([ACCEPTED]))[FIRST].next - 1)
    assert await screened_values(log) == expected


async def test_a_checkpoint_is_made_after_30_seconds_and_the_newest_two_are_kept(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log, moved = postgres_log, list[int]()

    async def move(_: Partition, offset: int) -> None:
        moved.append(offset)

    async with at_work(screener(log, objects, clock, moved=move)):
        for count in range(1, 5):
            await screened_up_to(log, await accept(log, a_reading(1, START_US + count)))
            clock.advance(31)
            await until(lambda: _is(len(moved) == count))  # noqa: B023 - called before the next round
    folder = f"checkpoints/screen/{log.log_id}/accepted/0/"
    assert moved == [0, 1, 2, 3]
    assert [path async for path in objects.list(folder)] == [f"{folder}{offset:020d}" for offset in (2, 3)]


async def test_an_unusable_checkpoint_is_passed_over_for_an_older_one(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = postgres_log
    last = await some_accepted(log, 12)
    async with at_work(screener(log, objects, clock, checkpoint_records=5)):
        await screened_up_to(log, last)
    folder = f"checkpoints/screen/{log.log_id}/accepted/0"
    await objects.put(f"{folder}/{last:020d}", b"half a file")
    with monkeypatch.context() as other:
        other.setattr("ingest_svc.checkpoint.SCHEMA", 99)
        await objects.put(f"{folder}/{last + 1:020d}", write_checkpoint(Checkpoint(last + 1, State())))
    last = await some_accepted(log, 5, seed=2)
    async with at_work(screener(log, objects, clock, checkpoint_records=3)):
        await screened_up_to(log, last)
    assert await screened_values(log) == await folded_values(log, objects)


async def test_what_cannot_be_folded_any_more_is_a_fault_that_says_so(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    await some_accepted(postgres_log, 5)
    clock.advance(3600)
    await postgres_log.trim(FIRST, 3, clock.now_us())
    with pytest.raises(Fault, match="accepted/0 begins at offset 3, but the newest usable checkpoint ends at -1"):
        await screener(postgres_log, objects, clock).run()


async def test_a_log_that_lost_records_is_a_fault_that_says_so(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    path = f"checkpoints/screen/{postgres_log.log_id}/backfill/1/{41:020d}"
    await objects.put(path, write_checkpoint(Checkpoint(41, State())))
    with pytest.raises(Fault, match="backfill/1 ends before offset 0, but was screened up to 41"):
        await screener(postgres_log, objects, clock).run()


async def test_screeners_that_come_and_go_give_the_flags_of_one_fold(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log = postgres_log
    partitions = [Partition(ACCEPTED, number) for number in range(log.partition_count)]

    async def feed(seed: int) -> dict[Partition, int]:
        return {partition: await some_accepted(log, 12, partition, seed + partition.number) for partition in partitions}

    async def all_screened(lasts: dict[Partition, int]) -> None:
        for partition, last in lasts.items():
            await screened_up_to(log, last, partition)

    async with at_work(screener(log, objects, clock, checkpoint_records=5)):
        await all_screened(await feed(10))
        async with at_work(screener(log, objects, clock, checkpoint_records=5)):
            await all_screened(await feed(20))
            await feed(30)
        await all_screened(await feed(40))
    for partition in partitions:
        assert await screened_values(log, partition) == await folded_values(log, objects, partition)


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
    await change(log, await a_catalog(objects, 2, a_sensor(1, 10.0)))
    await change(log, await a_catalog(objects, 1, a_sensor(1, 3600.0)))
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


async def test_a_failed_append_stops_the_worker_and_leaves_no_hole_behind(
    fresh_database: FreshDatabase, objects: DirectoryObjects, clock: ManualClock
) -> None:
    url, readings = await fresh_database(), some_readings(THREAD_FROM_READINGS, 50)  # enough to fail while the next is folded
    async with open_postgres_log(url, 4, clock) as log:
        last = max([await accept(log, readings) for _ in range(20)])
        async with await psycopg.AsyncConnection.connect(conninfo_of(url), autocommit=True) as database:
            await database.execute(  # one record fails, those behind it would not
                "ALTER TABLE log.records ADD CONSTRAINT refuses CHECK (topic <> 'screened' OR headers NOT LIKE '%\"10:9\"%')"
            )
            with pytest.raises(Unavailable):
                await screener(log, objects, clock).run()
            await database.execute("ALTER TABLE log.records DROP CONSTRAINT refuses")
        async with at_work(screener(log, objects, clock)):
            await screened_up_to(log, last)
        assert await screened_values(log) == await folded_values(log, objects)


async def _is(holds: bool) -> bool:
    return holds
