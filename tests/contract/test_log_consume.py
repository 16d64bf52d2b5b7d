"""What every Log promises to those who consume: assignment, order, preference, sharing, and recovery."""

import asyncio
import os
from contextlib import AsyncExitStack

import pytest

from mesh.errors import FailedPrecondition
from mesh.ports import Assigned, Log, Partition, Record, Records
from mesh.topics import ACCEPTED, BACKFILL, DEAD
from tests.contract.consuming import Reading, append_all, numbered, together
from tests.contract.engines import PARTITION_COUNT, LogEngine

HERE = Partition(ACCEPTED, 1)
ALL = {Partition(ACCEPTED, number) for number in range(PARTITION_COUNT)}


async def test_a_consumer_is_assigned_first_and_given_nothing_before_it_seeks(log: Log) -> None:
    for group, appended in ((None, 3), ("g", 6)):
        await append_all(log, HERE, numbered(3))
        async with log.consume(group, [ACCEPTED]) as consumer:
            event = await consumer.next(5)
            assert isinstance(event, Assigned)
            assert set(event.partitions) == ALL
            assert await consumer.next(0.2) is None
            await consumer.seek({HERE: 1})
            records = await consumer.next(5)
            assert isinstance(records, Records)
            assert records.partition == HERE
            assert [stored.offset for stored in records.records] == list(range(1, appended))


async def test_seeking_again_delivers_again(log: Log) -> None:
    await append_all(log, HERE, numbered(5))
    async with log.consume("g", [ACCEPTED]) as consumer:
        reading = Reading(consumer)
        await reading.until(lambda: len(reading.values[HERE]) == 5)
        reading.next_offset[HERE] = 2
        await consumer.seek({HERE: 2})
        await reading.until(lambda: len(reading.values[HERE]) == 8)
    assert reading.values[HERE] == [*numbered(5), *numbered(5)[2:]]


async def test_seeking_a_partition_of_somebody_else_is_refused(log: Log) -> None:
    async with log.consume("g", [ACCEPTED]) as consumer:
        with pytest.raises(FailedPrecondition, match="not assigned"):
            await consumer.seek({HERE: 0})


async def test_seeking_what_was_trimmed_gives_the_next_one_kept(log_engine: LogEngine, log: Log) -> None:
    await append_all(log, HERE, numbered(5))
    assert await log.trim(HERE, 3, log_engine.clock.now_us() + 60_000_000) == 3
    async with log.consume(None, [ACCEPTED]) as consumer:
        reading = Reading(consumer)
        await reading.until(lambda: len(reading.values[HERE]) == 2)
    assert reading.values[HERE] == [b"r3", b"r4"]


async def test_records_appended_while_reading_come_in_order_without_a_gap(log_engine: LogEngine) -> None:
    async with log_engine.open() as log, log_engine.open() as other, log.consume("g", [ACCEPTED]) as consumer:
        reading = Reading(consumer)
        async with asyncio.TaskGroup() as appending:
            for number in range(PARTITION_COUNT):
                values = numbered(300)
                appending.create_task(append_all(log if number % 2 else other, Partition(ACCEPTED, number), values))
            await reading.until(lambda: sum(map(len, reading.values.values())) == 1200)
    assert all(reading.values[partition] == numbered(300) for partition in ALL)


async def test_a_reader_hears_quickly_of_what_another_process_appends(log_engine: LogEngine) -> None:
    async with log_engine.open() as one, log_engine.open() as two, two.consume("g", [ACCEPTED]) as consumer:
        reading = Reading(consumer)
        await reading.until(lambda: reading.held == ALL)
        while (await consumer.next(0.2)) is not None:
            pass
        for i in range(3):
            appended = await one.append(HERE, Record(f"{i}".encode()))
            await appended
            began = asyncio.get_running_loop().time()
            await reading.until(lambda: len(reading.values[HERE]) > i)  # noqa: B023
            assert asyncio.get_running_loop().time() - began < 3


async def test_deliveries_are_bounded_and_the_greatest_record_comes(log_engine: LogEngine, log: Log) -> None:
    values = [bytes(3 * 2**20)] * 4 + [bytes(log_engine.record_limit_bytes), b"small"]
    await append_all(log, HERE, values)
    for group in (None, "g"):
        async with log.consume(group, [ACCEPTED]) as consumer:
            reading = Reading(consumer)
            await reading.until(lambda: reading.next_offset.get(HERE, 0) == 6)  # noqa: B023
        assert reading.values[HERE] == values
        for delivery in reading.deliveries:
            assert len(delivery.records) == 1 or sum(len(stored.record.value) for stored in delivery.records) <= 8 * 2**20


async def test_the_topic_named_first_is_preferred_and_later_ones_get_their_share(log: Log) -> None:
    values = [os.urandom(2**20)] * 24
    for number in range(PARTITION_COUNT):
        await append_all(log, Partition(ACCEPTED, number), values)
    for topic in (BACKFILL, DEAD):
        await append_all(log, Partition(topic, 0), values)
    async with log.consume("g", [ACCEPTED, BACKFILL, DEAD]) as consumer:
        reading = Reading(consumer)
        while sum(d.partition.topic == ACCEPTED for d in reading.deliveries) < 12:
            await reading.step()
            await asyncio.sleep(0.02)  # the reader is what is slow, so that there is something to choose from
    for later in (BACKFILL, DEAD):
        waited, left = 0, len(values)
        for delivery in reading.deliveries:
            waited = 0 if delivery.partition.topic == later or not left else waited + 1
            left -= len(delivery.records) if delivery.partition.topic == later else 0
            assert waited < 8
    numbers = [delivery.partition.number for delivery in reading.deliveries if delivery.partition.topic == ACCEPTED]
    assert len(numbers) > len(reading.deliveries) / 2
    assert min(map(numbers.count, range(PARTITION_COUNT))) >= 2


async def test_a_later_topic_is_read_when_the_first_has_nothing(log: Log) -> None:
    await append_all(log, Partition(BACKFILL, 2), numbered(1000))
    async with log.consume("g", [ACCEPTED, BACKFILL]) as consumer:
        reading = Reading(consumer)
        await reading.until(lambda: len(reading.values[Partition(BACKFILL, 2)]) == 1000)


@pytest.mark.parametrize("members", [2, 3])
async def test_members_share_evenly_and_never_hold_one_partition_at_once(log_engine: LogEngine, members: int) -> None:
    positions: dict[Partition, int] = {}  # shared, as in a database
    async with AsyncExitStack() as stack:
        readings = []
        for i in range(members):
            log = await stack.enter_async_context(log_engine.open())
            readings.append(Reading(await stack.enter_async_context(log.consume("g", [ACCEPTED])), positions))
            now = tuple(readings)
            share = {PARTITION_COUNT // (i + 1), -(-PARTITION_COUNT // (i + 1))}
            await together(*now, done=lambda: {len(r.held) for r in now} == share)  # noqa: B023
            for partition in ALL:
                await append_all(log, partition, numbered(20, f"{i}-"))
            wanted = 20 * (i + 1)
            await together(*now, done=lambda: all(positions.get(p, 0) == wanted for p in ALL))  # noqa: B023
    for partition in ALL:
        given = sorted(value for reading in readings for value in reading.values[partition])
        assert given == sorted(value for i in range(members) for value in numbered(20, f"{i}-"))


async def test_who_leaves_is_replaced_at_once(log_engine: LogEngine) -> None:
    async with log_engine.open() as one, log_engine.open() as two, two.consume("g", [ACCEPTED]) as stays:
        staying = Reading(stays)
        async with one.consume("g", [ACCEPTED]) as goes:
            going = Reading(goes)
            await together(staying, going, done=lambda: len(staying.held) == len(going.held) == 2)
        began = asyncio.get_running_loop().time()
        await staying.until(lambda: staying.held == ALL)
        assert asyncio.get_running_loop().time() - began < 2


async def test_groups_are_independent_of_one_another(log: Log) -> None:
    await append_all(log, HERE, numbered(10))
    async with log.consume("a", [ACCEPTED]) as one, log.consume("b", [ACCEPTED]) as two, log.consume(None, [ACCEPTED]) as three:
        for consumer in (one, two, three):
            reading = Reading(consumer)
            await reading.until(lambda: len(reading.values[HERE]) == 10)  # noqa: B023
            assert reading.held == ALL


async def test_a_member_whose_connection_breaks_comes_back_and_misses_nothing(log_engine: LogEngine) -> None:
    async with log_engine.open() as log, log.consume("g", [ACCEPTED]) as consumer:
        reading = Reading(consumer)
        await append_all(log, HERE, numbered(5))
        await reading.until(lambda: len(reading.values[HERE]) == 5)
        await log_engine.cut()
        if not log_engine.members_outlive_a_cut:
            await reading.until(lambda: set(reading.revoked) == ALL)
        async with log_engine.open() as other:
            await append_all(other, HERE, numbered(5, "after-"))
        await reading.until(lambda: reading.held == ALL and len(reading.values[HERE]) == 10)
    assert reading.values[HERE] == [*numbered(5), *numbered(5, "after-")]
