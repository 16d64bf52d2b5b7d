"""What every Log promises to those who append, read, ask for ends and trim."""

import asyncio
import os

import pytest

from mesh.errors import InvalidArgument, TooLarge, Unavailable
from mesh.ports import Ends, Log, Partition, Record
from mesh.topics import ACCEPTED, BACKFILL, TOPICS
from tests.contract.consuming import append_all, numbered
from tests.contract.engines import PARTITION_COUNT, LogEngine

HERE = Partition(ACCEPTED, 1)


async def test_what_was_appended_is_read_back_in_order_with_its_headers_and_time(log_engine: LogEngine, log: Log) -> None:
    began_us = log_engine.clock.now_us()
    first = await (await log.append(HERE, Record(b"a", {"gateway": "gw-1", "note": "ä\x00\n"})))
    await log_engine.tick()
    second = await (await log.append(HERE, Record(b"", {})))
    found = await log.read(HERE, 0, 10)
    assert [(s.offset, s.record) for s in found] == [
        (first, Record(b"a", {"gateway": "gw-1", "note": "ä\x00\n"})),
        (second, Record(b"", {})),
    ]
    one, two = (stored.appended_at_us for stored in found)
    assert began_us - 1000 < one < two <= log_engine.clock.now_us()


async def test_appends_of_one_caller_keep_their_order(log: Log) -> None:
    values = numbered(1000)
    offsets = await append_all(log, HERE, values)
    assert offsets == sorted(set(offsets))
    assert [stored.record.value for stored in await log.read(HERE, 0, 1000)] == values


async def test_concurrent_appenders_each_keep_their_order_and_share_no_offset(log_engine: LogEngine) -> None:
    async with log_engine.open() as one, log_engine.open() as two:
        callers = [append_all(log, HERE, numbered(200, f"{i}-")) for i, log in enumerate((one, one, two, two))]
        offsets = [offset for each in await asyncio.gather(*callers) for offset in each]
        found = await one.read(HERE, 0, 1000)
    assert len(set(offsets)) == 800
    assert sorted(offsets) == [stored.offset for stored in found]
    for i in range(4):
        mine = [s.record.value for s in found if s.record.value.startswith(f"{i}-".encode())]
        assert mine == numbered(200, f"{i}-")


async def test_appends_to_several_partitions_from_two_processes_do_not_block_one_another(log_engine: LogEngine) -> None:
    partitions = [Partition(topic, number) for topic in (ACCEPTED, BACKFILL) for number in range(PARTITION_COUNT)]
    async with log_engine.open() as one, log_engine.open() as two:
        callers = [
            append_all(log, partition, numbered(60))
            for log, order in ((one, partitions), (two, partitions[::-1]))
            for partition in order
        ]
        await asyncio.gather(*callers)
        ends = await two.ends([ACCEPTED, BACKFILL])
    assert set(ends.values()) == {Ends(0, 120)}


async def test_a_large_record_is_stored_whole(log: Log) -> None:
    value = bytes(range(256)) * 8192
    offset = await (await log.append(HERE, Record(value)))
    (found,) = await log.read(HERE, offset, 1)
    assert found.record.value == value


async def test_a_record_beyond_the_limit_is_refused_at_once(log: Log) -> None:
    with pytest.raises(TooLarge, match="at most"):
        await log.append(HERE, Record(bytes(9 * 2**20)))


async def test_a_partition_that_does_not_exist_is_refused(log: Log) -> None:
    for partition in (Partition("nothing", 0), Partition(ACCEPTED, PARTITION_COUNT), Partition(ACCEPTED, -1)):
        with pytest.raises(InvalidArgument, match="the log has no"):
            await log.append(partition, Record(b""))


async def test_reading_keeps_to_its_limits(log: Log) -> None:
    await append_all(log, HERE, [bytes(3 * 2**20)] * 4)
    assert len(await log.read(HERE, 0, 3)) == 2  # three would be 9 MiB
    assert len(await log.read(HERE, 2, 1)) == 1
    assert await log.read(HERE, 4, 10) == ()
    assert await log.read(Partition(ACCEPTED, 2), 0, 10) == ()


async def test_the_greatest_records_are_read_within_the_limit_but_always_one(log_engine: LogEngine, log: Log) -> None:
    largest = os.urandom(log_engine.record_limit_bytes)  # no compression makes it smaller
    await append_all(log, HERE, [largest, largest, b"small"])
    within = max(1, 8 * 2**20 // len(largest))
    assert [stored.record.value for stored in await log.read(HERE, 0, within + 1)][:within] == [largest] * within
    assert sum(len(stored.record.value) for stored in await log.read(HERE, 0, 10)) <= 8 * 2**20
    assert [stored.record.value for stored in await log.read(HERE, 1, 1)] == [largest]


async def test_ends_name_every_partition_and_hold_every_delivery_that_is_done(log_engine: LogEngine) -> None:
    async with log_engine.open() as one, log_engine.open() as two:
        assert await one.ends(TOPICS) == {Partition(t, n): Ends(0, 0) for t in TOPICS for n in range(PARTITION_COUNT)}
        for i in range(20):
            offset = await (await one.append(HERE, Record(b"x")))
            assert (await two.ends([ACCEPTED]))[HERE].next > offset == i


async def test_last_is_the_newest_durable_record(log: Log) -> None:
    assert await log.last(HERE) is None
    offsets = await append_all(log, HERE, numbered(5))
    last = await log.last(HERE)
    assert last is not None
    assert (last.offset, last.record.value) == (offsets[-1], b"r4")
    assert await log.last(Partition(ACCEPTED, 0)) is None


async def test_trim_needs_both_limits(log_engine: LogEngine, log: Log) -> None:
    for i in range(6):
        await log_engine.tick()
        await append_all(log, HERE, [f"{i}".encode()])
    times_us = [stored.appended_at_us for stored in await log.read(HERE, 0, 10)]
    assert await log.trim(HERE, 4, times_us[0]) == 0
    assert await log.trim(HERE, 0, times_us[5] + 60_000_000) == 0
    assert await log.trim(HERE, 4, times_us[2]) == 2
    assert (await log.ends([ACCEPTED]))[HERE] == Ends(2, 6)
    assert await log.trim(HERE, 4, times_us[5] + 60_000_000) == 2
    assert [stored.offset for stored in await log.read(HERE, 0, 10)] == [4, 5]


async def test_trim_keeps_the_last_record(log_engine: LogEngine, log: Log) -> None:
    await append_all(log, HERE, numbered(2500))
    later_us = log_engine.clock.now_us() + 60_000_000
    assert await log.trim(HERE, 10_000, later_us) == 2499
    assert await log.trim(HERE, 10_000, later_us) == 0
    last = await log.last(HERE)
    assert last is not None
    assert (await log.ends([ACCEPTED]))[HERE] == Ends(last.offset, last.offset + 1)
    assert [stored.offset for stored in await log.read(HERE, 0, 10)] == [last.offset]
    assert await append_all(log, HERE, [b"more"]) == [2500]


async def test_a_restart_keeps_identity_offsets_and_records(log_engine: LogEngine) -> None:
    async with log_engine.open() as log:
        log_id = log.log_id
        await append_all(log, HERE, numbered(3))
    async with log_engine.open() as log:
        assert (log.log_id, log.partition_count) == (log_id, PARTITION_COUNT)
        assert await append_all(log, HERE, [b"after"]) == [3]
        assert [stored.record.value for stored in await log.read(HERE, 0, 9)] == [*numbered(3), b"after"]


async def test_closing_settles_what_was_appended(log_engine: LogEngine) -> None:
    async with log_engine.open() as log:
        futures = [await log.append(HERE, Record(bytes(100_000))) for _ in range(100)]
    assert [future.result() for future in futures] == list(range(100))
    with pytest.raises(Unavailable, match="closed"):
        await log.append(HERE, Record(b"late"))


async def test_the_buffer_is_bounded_and_who_appends_more_waits_for_room(log_engine: LogEngine) -> None:
    value = bytes(2**20)
    async with log_engine.open() as log, asyncio.TaskGroup() as group:
        async with log_engine.stuck():
            appending = group.create_task(append_all(log, HERE, [value] * 40))
            done, _ = await asyncio.wait([appending], timeout=0.5)
            assert not done
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await log.append(HERE, Record(b"one more"))
            assert not appending.done()
        assert await appending == list(range(40))


async def test_a_stuck_engine_fails_the_delivery_and_nothing_of_it_comes_late(log_engine: LogEngine) -> None:
    async with log_engine.open() as log:
        async with log_engine.stuck():
            first = await log.append(HERE, Record(b"first"))
            behind = await log.append(HERE, Record(b"behind"))
            elsewhere = await log.append(Partition(ACCEPTED, 2), Record(b"elsewhere"))
            for failing in (first, behind):
                with pytest.raises(Unavailable):
                    await failing
        await asyncio.wait([elsewhere])
        assert await append_all(log, HERE, [b"after"]) == [0]
        assert [stored.record.value for stored in await log.read(HERE, 0, 10)] == [b"after"]


async def test_a_cut_connection_fails_appends_or_not_and_the_log_goes_on(log_engine: LogEngine) -> None:
    async with log_engine.open() as log:
        await append_all(log, HERE, [b"before"])
        acknowledged = {0}
        for i in range(5):
            pending = [await log.append(HERE, Record(f"{i}-{j}".encode())) for j in range(50)]
            await log_engine.cut()
            results = await asyncio.gather(*pending, return_exceptions=True)
            assert all(isinstance(result, int | Unavailable) for result in results)
            acknowledged |= {result for result in results if isinstance(result, int)}
            failed_from = next((j for j, result in enumerate(results) if not isinstance(result, int)), 50)
            assert not any(isinstance(result, int) for result in results[failed_from:])
        async with asyncio.timeout(10):
            while True:
                try:
                    acknowledged |= set(await append_all(log, HERE, [b"after"]))
                    break
                except Unavailable:
                    continue
        kept = {stored.offset for stored in await log.read(HERE, 0, 1000)}
    assert acknowledged <= kept
