"""The arrow `screen` after crashes, rebalances and damage: the same bytes as from one undisturbed fold (law 6)."""

import asyncio
import random

import psycopg
import pytest

from ingest_svc.checkpoint import Checkpoint, write_checkpoint
from ingest_svc.lane import THREAD_FROM_READINGS
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_connections import conninfo_of
from mesh.adapters.postgres_log import PostgresLog, open_postgres_log
from mesh.clock import ManualClock
from mesh.codec.log_records import read_dead
from mesh.errors import Fault, Unavailable
from mesh.ports import Partition
from mesh.topics import ACCEPTED, DEAD, SCREENED
from tests.builders import START_US, a_reading, some_readings
from tests.conftest import FreshDatabase
from tests.ingest.screening import (
    FIRST,
    POISON,
    accept,
    at_work,
    everything,
    folded_values,
    screened_up_to,
    screened_values,
    screener,
    some_accepted,
    until,
)
from water.state import State


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


async def _is(holds: bool) -> bool:
    return holds
