"""Silence is told once, ended when it ends, whatever crashes, and never made up because somebody of ours was away (law 6)."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from mesh.clock import ManualClock
from mesh.errors import Fault, PositionLost
from mesh.ports import Objects, Partition
from mesh.shards import transaction
from mesh.topics import SCREENED
from tests.conftest import FreshDatabase
from tests.ingest.publishing import killed, running
from tests.ingest.silence_town import Town, a_town

ALL = {"a": [1, 2], "b": [3, 4]}
BUT_2 = {"a": [1], "b": [3, 4]}
BUT_B = {"a": [1, 2]}


@pytest.fixture
async def town(fresh_database: FreshDatabase, objects: Objects, clock: ManualClock) -> AsyncIterator[Town]:
    async with a_town(fresh_database, objects, clock) as made:
        await made.describe(1, 2, 3, 4)
        yield made


async def test_a_sensor_and_a_gateway_that_stop_are_told_once_and_ended_when_they_speak(town: Town) -> None:
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(30, ALL, worker)
        assert await town.names() == []
        await town.pass_time(60, BUT_2, worker)
        assert await town.names() == [("RAISED", "sensor/2")]
        await town.pass_time(120, BUT_B, worker)
        ended = [("RAISED", "gateway/north/b"), ("RAISED", "sensor/2"), ("CLEARED", "sensor/2")]
        assert sorted(await town.names()) == sorted(ended)
        await town.pass_time(60, ALL, worker)
        assert sorted(await town.names()) == sorted([*ended, ("CLEARED", "gateway/north/b")])
    assert len(await town.told()) == 4
    for task in await town.told():
        condition = task.condition
        assert condition.ended_us is None or condition.ended_us > condition.began_us
        assert (condition.site_id, condition.sensor_id) == (("weir", 2) if "sensor" in condition.condition_id else ("", 0))


async def test_a_stop_of_ours_is_no_silence_however_long(town: Town) -> None:
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(30, ALL, worker)
    town.clock.advance(7_200)
    again = town.worker()
    async with running(again.run):
        await town.pass_time(55, {}, again)
        await town.pass_time(100, ALL, again)
        assert await town.names() == []
        await town.pass_time(100, BUT_B, again)
        assert await town.names() == [("RAISED", "gateway/north/b")]


async def test_nobody_is_silent_while_nobody_accepts_readings(town: Town) -> None:
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(30, ALL, worker)
        town.is_accepting = False
        await town.pass_time(600, {}, worker, judged=False)
        assert await town.names() == []
        town.is_accepting = True
        await town.pass_time(50, {}, worker)
        await town.pass_time(50, ALL, worker)
        assert await town.names() == []


async def test_nobody_is_silent_while_screening_is_behind(town: Town) -> None:
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(30, ALL, worker)
        town.is_screening = False
        await town.pass_time(300, ALL, worker, judged=False)
        assert await town.names() == []


async def test_an_open_episode_outlives_a_restart_and_ends_when_it_speaks(town: Town) -> None:
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(30, ALL, worker)
        await town.pass_time(100, {"a": [1]}, worker)
    before = await town.names()
    assert sorted(before) == [("RAISED", "gateway/north/b"), ("RAISED", "sensor/2")]
    again = town.worker()
    async with running(again.run):
        await town.pass_time(100, {"a": [1]}, again)
        assert len(await town.told()) == 2
        await town.pass_time(20, ALL, again)
    found = await town.told()
    assert len(found) == 4
    began = {(task.condition.condition_id, task.condition.began_us) for task in found}
    assert len(began) == 2


async def test_a_gateway_that_spoke_while_we_were_away_is_not_silent_any_more(town: Town) -> None:
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(30, ALL, worker)
        await town.pass_time(100, BUT_B, worker)
    await town.pass_time(20, ALL, None)
    again = town.worker()
    async with running(again.run):
        await town.pass_time(10, ALL, again)
    assert await town.names() == [("RAISED", "gateway/north/b"), ("CLEARED", "gateway/north/b")]


@pytest.mark.parametrize("seed", range(2))
async def test_killed_at_any_moment_every_episode_is_told_with_one_beginning_and_none_stays_open(town: Town, seed: int) -> None:
    chance = random.Random(seed)
    worker = town.worker()
    run = asyncio.create_task(worker.run())

    async def maybe_kill() -> None:
        nonlocal worker, run
        loops = 0
        enough = chance.randrange(30)
        while loops < enough:
            town.clock.advance(0.05)
            await asyncio.sleep(0.001)
            loops += 1
        await killed(run)
        worker = town.worker()
        run = asyncio.create_task(worker.run())

    for batches in (ALL, BUT_2, BUT_B, ALL, BUT_2, ALL):
        for _ in range(3):
            await town.speak(batches)
            await maybe_kill()
        await town.pass_time(85, batches, worker)
    await killed(run)
    episodes: dict[tuple[str, int], set[str]] = {}
    for task in await town.told():
        key = task.condition.condition_id.removeprefix("silence/"), task.condition.began_us
        episodes.setdefault(key, set()).add(task.condition.change.name)
    assert sorted(name for name, _ in episodes) == ["gateway/north/b", "sensor/2", "sensor/2"]
    assert set(map(frozenset, episodes.values())) == {frozenset({"RAISED", "CLEARED"})}


async def test_one_of_two_workers_listens_and_the_other_takes_over(town: Town) -> None:
    one, other = town.worker(), town.worker()
    first = asyncio.create_task(one.run())
    await town.pass_time(20, ALL, one)
    async with running(other.run):
        await town.pass_time(20, ALL, one)
        assert not other.judged_us
        await killed(first)
        await town.pass_time(200, BUT_2, other)
    assert await town.names() == [("RAISED", "sensor/2")]


async def test_a_worker_that_lost_its_place_stops(town: Town) -> None:
    worker = town.worker()

    async def stops() -> None:
        with pytest.raises(PositionLost):
            await worker.run()

    run = asyncio.create_task(stops())
    await town.pass_time(20, ALL, worker)
    async with transaction(town.catalog) as connection:
        await connection.execute(text('UPDATE positions SET "offset" = "offset" + 1 WHERE stage = \'silence\''))
    await town.speak(ALL)
    async with asyncio.timeout(30):
        while not run.done():
            town.clock.advance(0.05)
            await asyncio.sleep(0.005)
    await run


async def test_sensors_that_people_describe_or_retire_meanwhile_are_watched_or_not(town: Town) -> None:
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(20, {"a": [1, 2, 9]}, worker)
        await town.describe(1, 9)
        await town.pass_time(20, {"a": [1, 2, 9]}, worker)
        await town.pass_time(60, {"a": [1]}, worker)
        assert await town.names() == [("RAISED", "sensor/9")]
        await town.describe(1)
        await town.pass_time(10, {"a": [1]}, worker)
        assert await town.names() == [("RAISED", "sensor/9"), ("CLEARED", "sensor/9")]
    async with running((again := town.worker()).run):
        await town.pass_time(60, {"a": [1]}, again)
    assert len(await town.told()) == 2


async def test_a_first_start_knows_nobody_from_before(town: Town) -> None:
    await town.pass_time(20, ALL, None)
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(120, {"a": [1]}, worker)
    assert await town.names() == []


async def test_an_unreadable_record_is_passed(town: Town) -> None:
    worker = town.worker()
    async with running(worker.run):
        await town.pass_time(10, ALL, worker)
        await town.append(Partition(SCREENED, 0), b"\xff\xff", {"gateway": "a", "hour": "0", "count": "1"})
        await town.pass_time(10, ALL, worker)
    assert await town.names() == []


async def test_a_catalog_that_is_missing_stops_the_worker_with_its_name(town: Town) -> None:
    async for path in town.objects.list("contexts/"):
        await town.objects.delete(path)
    with pytest.raises(Fault, match=r"CATALOG context version 1, object contexts/.*: it is missing"):
        await town.worker().run()
