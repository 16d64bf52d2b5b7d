"""The embedded Log beyond its port: killed processes, other settings, what it keeps in memory."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process

import psycopg
import pytest

from mesh.adapters import postgres_log_append
from mesh.adapters.postgres_log import open_postgres_log
from mesh.adapters.postgres_log_consume import Turns
from mesh.adapters.postgres_log_tips import Tail
from mesh.clock import ManualClock
from mesh.errors import SetupError, Unavailable
from mesh.ports import Partition, Record, Stored
from mesh.topics import ACCEPTED
from tests.conftest import FreshDatabase
from tests.contract.consuming import Reading, append_all, numbered
from tests.contract.engines import postgres_log_engine

HERE = Partition(ACCEPTED, 1)
ALL = {Partition(ACCEPTED, number) for number in range(4)}

_MEMBER = """
import asyncio, sys
from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import SystemClock
from mesh.ports import Assigned

async def main() -> None:
    async with open_postgres_log(sys.argv[1], 4, SystemClock()) as log, log.consume("g", ["accepted"]) as consumer:
        while True:
            if isinstance(await consumer.next(1), Assigned):
                print("mine", flush=True)

asyncio.run(main())
"""


async def another_member(url: str) -> Process:
    """Another process that is in the group `g`, once it has its partitions."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _MEMBER, url, stdout=PIPE, env={"PYTHONPATH": ".:gen"})
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"mine\n"
    return process


async def test_a_new_process_has_the_partitions_of_a_killed_one_within_two_seconds(
    fresh_database: FreshDatabase, clock: ManualClock
) -> None:
    url = await fresh_database()
    process = await another_member(url)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    async with open_postgres_log(url, 4, clock) as log, log.consume("g", [ACCEPTED]) as consumer:
        began = asyncio.get_running_loop().time()
        reading = Reading(consumer)
        await reading.until(lambda: reading.held == ALL)
        assert asyncio.get_running_loop().time() - began < 2


async def test_a_surviving_member_takes_over_from_a_killed_one(fresh_database: FreshDatabase, clock: ManualClock) -> None:
    url = await fresh_database()
    async with open_postgres_log(url, 4, clock) as log, log.consume("g", [ACCEPTED]) as consumer:
        reading = Reading(consumer)
        await reading.until(lambda: reading.held == ALL)
        joining = asyncio.ensure_future(another_member(url))
        await reading.until(lambda: joining.done() and len(reading.held) == 2)
        process = await joining
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        began = asyncio.get_running_loop().time()
        await reading.until(lambda: reading.held == ALL)
        assert asyncio.get_running_loop().time() - began < 3


async def test_another_partition_count_is_refused(fresh_database: FreshDatabase, clock: ManualClock) -> None:
    url = await fresh_database()
    async with open_postgres_log(url, 4, clock):
        pass
    with pytest.raises(SetupError, match="made with 4 partitions, not 8"):
        async with open_postgres_log(url, 8, clock):
            pass


async def test_two_processes_may_make_the_log_at_once(fresh_database: FreshDatabase, clock: ManualClock) -> None:
    url = await fresh_database()

    async def identity() -> str:
        async with open_postgres_log(url, 4, clock) as log:
            return log.log_id

    assert len(set(await asyncio.gather(*(identity() for _ in range(4))))) == 1


async def test_what_waited_too_long_is_failed_without_being_tried(
    fresh_database: FreshDatabase, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_log_append, "UNTRIED_LIMIT_S", 0.5)
    engine = await postgres_log_engine(fresh_database, clock)
    async with engine.open() as log:
        async with engine.stuck():
            tried = await log.append(HERE, Record(b"tried"))
            late = [await log.append(Partition(ACCEPTED, n), Record(bytes(5 * 2**20))) for n in (2, 3)]
            await asyncio.wait([tried], timeout=1)
        assert await tried == 0
        for waited in late:
            with pytest.raises(Unavailable, match="waited longer"):
                await waited
        assert await log.read(Partition(ACCEPTED, 2), 0, 10) == ()


async def test_consumers_read_the_same_whether_the_tail_holds_the_records_or_not(
    fresh_database: FreshDatabase, clock: ManualClock
) -> None:
    for tail_bytes in (0, 5_000, 10_000_000):
        async with open_postgres_log(await fresh_database(), 4, clock, tail_bytes=tail_bytes) as log:
            async with log.consume(None, [ACCEPTED]) as consumer:
                reading = Reading(consumer)
                for i in range(4):
                    await append_all(log, HERE, numbered(100, f"{i}-"))
                    await reading.until(lambda: len(reading.values[HERE]) >= 100 * i)  # noqa: B023
                await reading.until(lambda: len(reading.values[HERE]) == 400)  # noqa: B023
            assert reading.values[HERE] == [value for i in range(4) for value in numbered(100, f"{i}-")]


def test_the_tail_drops_the_oldest_beyond_its_limit_and_never_gives_a_gap() -> None:
    tail = Tail(10_000)
    for offset in range(100):
        tail.add(HERE, Stored(offset, Record(bytes(600)), 0))
    kept = [offset for offset in range(100) if tail.read(HERE, offset, 1, 10_000)]
    assert kept == list(range(90, 100))
    assert [stored.offset for stored in tail.read(HERE, 95, 3, 10_000)] == [95, 96, 97]
    assert [stored.offset for stored in tail.read(HERE, 95, 9, 1_300)] == [95, 96]
    assert [stored.offset for stored in tail.read(HERE, 95, 9, 10)] == [95]
    tail.trimmed(HERE, 97)
    assert tail.read(HERE, 95, 3, 10_000) == []


@pytest.mark.parametrize("later", [1, 2, 3, 5])
def test_every_later_topic_has_one_turn_in_eight_and_the_first_has_the_rest(later: int) -> None:
    topics = [f"t{i}" for i in range(later + 1)]
    ready = [Partition(topic, number) for topic in topics for number in range(3)]
    turns = Turns(topics)
    order = []
    for _ in range(400):
        order.append(turns.choose(ready))
        turns.took(order[-1], ready)
    for start in range(len(order) - 8):
        assert {partition.topic for partition in order[start : start + 8]} >= set(topics[1:])
    assert sum(partition.topic == "t0" for partition in order) >= 400 * (8 - 2 * later) / 8
    turns_of = [order.count(Partition("t0", number)) for number in range(3)]
    assert max(turns_of) - min(turns_of) <= 1


async def test_a_trim_that_was_killed_half_way_is_finished_by_the_next(fresh_database: FreshDatabase, clock: ManualClock) -> None:
    url, partition = await fresh_database(), Partition(ACCEPTED, 0)
    async with open_postgres_log(url, 1, clock) as log:
        await append_all(log, partition, numbered(2100))
        clock.advance(100)
        async with await psycopg.AsyncConnection.connect(url.replace("+psycopg", "")) as killed:
            await killed.execute('DELETE FROM log.records WHERE "offset" < 1000')  # its first window; it never told

        assert await log.trim(partition, 2000, clock.now_us()) == 1000
        assert (await log.ends([ACCEPTED]))[partition].first == 2000
