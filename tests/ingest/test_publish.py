"""Every condition in the Log is published at least once, in spite of everything, and nothing is passed over (law 9)."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from sqlalchemy import text

from ingest_svc.publish import Publish
from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.clock import SystemClock
from mesh.codec.log_records import read_dead, read_screened
from mesh.errors import Fault, PositionLost, Unavailable
from mesh.ports import Partition, Priority
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import DEAD, SCREENED, SCREENED_BACKFILL
from tests.builders import some_readings
from tests.conftest import FreshDatabase
from tests.ingest.publishing import LIVE, Mesh, a_mesh, a_task, ids, killed, publish_all, publisher, running, until
from water.condition import Change

BACKFILL_1 = Partition(SCREENED_BACKFILL, 1)


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Mesh]:
    async with a_mesh(fresh_database) as made:
        yield made


async def test_every_condition_of_both_lanes_and_of_silence_is_published_as_it_is(mesh: Mesh) -> None:
    live, cleared = a_task(1), a_task(2, change=Change.CLEARED)
    historical, silent = a_task(3, historical=True), a_task(4, severity=2)
    await mesh.put(live, cleared)
    await mesh.put()
    await mesh.put(historical, partition=BACKFILL_1)
    await mesh.put_silence(silent)
    await publish_all(mesh)
    found = {task.condition.condition_id: task for task in await mesh.high()}
    assert found == {"c-1": live, "c-2": cleared, "c-3": historical, "c-4": silent}


async def test_the_more_severe_comes_first(mesh: Mesh) -> None:
    await mesh.put(a_task(1, severity=1), a_task(2, severity=5), a_task(3, severity=3), a_task(4, severity=5))
    await mesh.put(a_task(5, severity=99))
    await publish_all(mesh)
    assert sorted(ids(await mesh.high())[:3]) == ["c-2", "c-4", "c-5"]
    assert ids(await mesh.high())[3:] == ["c-3", "c-1"]


async def test_a_restart_publishes_nothing_again(mesh: Mesh) -> None:
    for number in range(20):
        await mesh.put(a_task(number))
    await publish_all(mesh)
    await mesh.put(a_task(20))
    await publish_all(mesh)
    assert sorted(ids(await mesh.high())) == sorted(f"c-{number}" for number in range(21))


@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_any_moment_everything_is_published_at_least_once_and_nothing_is_passed_over(
    mesh: Mesh, seed: int
) -> None:
    chance = random.Random(seed)
    for number in range(120):
        partition = Partition(chance.choice((SCREENED, SCREENED_BACKFILL)), chance.randrange(4))
        await mesh.put(*[a_task(number * 10 + part) for part in range(chance.randrange(4))], partition=partition)
    wanted = {f"c-{number * 10 + part}" for number in range(120) for part in range(3)}
    for _ in range(15):
        run = asyncio.create_task(publisher(mesh).run())
        loops = 0
        enough = chance.randrange(400)
        while loops < enough and not run.done():
            await asyncio.sleep(0.0002)
            loops += 1
        await killed(run)
        published = set(ids(await mesh.high()))
        for partition, position in (await mesh.positions()).items():
            for stored in await mesh.log.read(partition, 0, 1000):
                if stored.offset <= position.offset:
                    assert await _conditions_of(stored.record.value) <= published
    await publish_all(mesh)
    assert set(ids(await mesh.high())) <= wanted
    assert set(ids(await mesh.high())) == await _all_conditions(mesh)


async def test_while_the_exchange_is_away_conditions_wait_in_the_log_and_arrive_afterwards(mesh: Mesh) -> None:
    await mesh.put(a_task(1))
    await publish_all(mesh)
    before = await mesh.positions()
    async with mesh.without_exchange():
        await mesh.put(a_task(2))
        for _ in range(2):
            with pytest.raises(Unavailable):
                await publisher(mesh).run()
        assert await mesh.positions() == before
    await mesh.put(a_task(3))
    await publish_all(mesh)
    assert sorted(ids(await mesh.high())) == ["c-1", "c-2", "c-3"]


async def test_connections_that_break_in_the_middle_lose_nothing(mesh: Mesh) -> None:
    for number in range(0, 3000, 100):
        await mesh.put(*[a_task(number + part) for part in range(100)])
    failed = 0
    while not await mesh.passed():
        run = asyncio.create_task(publisher(mesh).run())
        while not run.done() and not await mesh.passed():
            if failed < 5:
                await mesh.cut_exchange()
            await asyncio.sleep(0.02)
        failed += run.done()
        run.cancel()
        with suppress(Unavailable, asyncio.CancelledError):
            await run
    assert set(ids(await mesh.high())) == {f"c-{number}" for number in range(3000)}
    assert failed


async def test_a_repeated_record_is_dropped_and_a_missing_one_stops_the_worker_before_it(mesh: Mesh) -> None:
    await mesh.put(a_task(1))
    await mesh.put(a_task(2), source=(0, -1))
    await mesh.put(a_task(3))
    await publish_all(mesh)
    assert sorted(ids(await mesh.high())) == ["c-1", "c-3"]
    await mesh.put(a_task(4), source=(9, 8))
    with pytest.raises(Fault, match=f"{SCREENED}/0 offset 3 follows source offset 8, but 1 was had last"):
        await publisher(mesh).run()
    assert (await mesh.positions())[LIVE].offset == 2


async def test_a_record_without_conditions_is_passed_without_being_read(mesh: Mesh) -> None:
    await mesh.put(value=b"\xff\xff")
    await mesh.put(a_task(1))
    await publish_all(mesh)
    assert ids(await mesh.high()) == ["c-1"]
    assert not await mesh.log.read(Partition(DEAD, 0), 0, 10)


@pytest.mark.parametrize("conditions", ["1", "many"])
async def test_conditions_that_cannot_be_read_are_buried_once_and_the_others_go_on(mesh: Mesh, conditions: str) -> None:
    await mesh.put(value=b"\xff\xff", conditions=conditions)
    await mesh.put(a_task(1))
    await mesh.append(Partition("silence", 0), b"\xff", {"conditions": "1"})
    for _ in range(2):
        await publish_all(mesh)
    dead = [read_dead(stored.record.value) for stored in await mesh.log.read(Partition(DEAD, 0), 0, 10)]
    assert sorted((one.stage, one.topic, one.offset, one.gateway_id) for one in dead) == [
        ("publish", SCREENED, 0, "g-1"),
        ("publish", "silence", 0, ""),
    ]
    assert ids(await mesh.high()) == ["c-1"]


async def test_a_condition_too_big_for_any_queue_is_buried(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.adapters.postgres_exchange.BODY_LIMIT_BYTES", 20)
    await mesh.put(a_task(1))
    await publish_all(mesh)
    (dead,) = await mesh.log.read(Partition(DEAD, 0), 0, 10)
    assert "c-1" in read_dead(dead.record.value).problem


async def test_two_workers_share_the_partitions_and_one_that_lost_its_place_stops(mesh: Mesh) -> None:
    for number in range(40):
        await mesh.put(a_task(number), partition=Partition(SCREENED, number % 4))
    async with running(publisher(mesh).run), running(publisher(mesh).run):
        await until(mesh.passed)
    assert set(ids(await mesh.high())) == {f"c-{number}" for number in range(40)}
    progress = Progress("publish")
    async with asyncio.TaskGroup() as tasks:
        zombie = tasks.create_task(_raised(publisher(mesh, progress), PositionLost))
        await until(lambda: _has_begun(progress))
        async with transaction(mesh.catalog) as connection:
            await connection.execute(text('UPDATE positions SET "offset" = "offset" + 1000'))
        await mesh.put(a_task(99))
        await zombie


async def test_the_position_moves_within_a_second_where_nothing_is_published(mesh: Mesh) -> None:
    progress = Progress("publish")
    async with running(publisher(mesh, progress).run):
        for _ in range(50):
            await mesh.put()
        await until(mesh.passed)
        assert progress.next_offset[LIVE] == 50
        assert progress.handled_count == 50


async def test_high_never_waits_for_a_flood_of_medium(mesh: Mesh) -> None:
    """Another process floods the board; a condition still arrives at once."""
    clock, loop = SystemClock(), asyncio.get_running_loop()
    async with open_postgres_exchange(mesh.exchange_url, clock) as flooding:

        async def flood() -> None:
            while True:
                await flooding.publish(Priority.MEDIUM, bytes(200_000))

        async with asyncio.TaskGroup() as tasks, running(publisher(mesh).run):
            floods = [tasks.create_task(flood()) for _ in range(4)]
            await mesh.put(readings=some_readings(2000, sensors=2000))
            waited = []
            for number in range(10):
                began = loop.time()
                await mesh.put(a_task(number), readings=some_readings(2000, sensors=2000))
                await until(lambda wanted=number + 1: _has_high(mesh, wanted))  # type: ignore[misc]
                waited.append(loop.time() - began)
            for one in floods:
                one.cancel()
    assert sorted(waited)[5] < 0.5


async def _raised(publish: Publish, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await publish.run()


async def _has_begun(progress: Progress) -> bool:
    return bool(progress.next_offset)


async def _conditions_of(value: bytes) -> set[str]:
    return set(ids(read_screened(value).conditions))


async def _all_conditions(mesh: Mesh) -> set[str]:
    found: set[str] = set()
    for topic in (SCREENED, SCREENED_BACKFILL):
        for number in range(4):
            for stored in await mesh.log.read(Partition(topic, number), 0, 1000):
                found |= await _conditions_of(stored.record.value)
    return found


async def _has_high(mesh: Mesh, count: int) -> bool:
    return len(await mesh.high()) >= count
