"""The recorder when a part is away: the others go on, and what was left out comes back from its own positions (law 13)."""

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from sqlalchemy import text

from mesh.errors import Unavailable
from query_svc.record import WRITE_WITHIN_S
from query_svc.record_pause import Pauses
from query_svc.record_slots import CLOSE, Had, together
from tests.engines import quick_postgres
from tests.query.away_town import Town, a_town
from tests.query.deployment import PATIENCE_S, FreshDatabase, running
from tests.query.shard_trouble import away


@pytest.fixture
async def town(fresh_database: FreshDatabase) -> AsyncIterator[Town]:
    async with a_town(await fresh_database(), [await fresh_database(), await fresh_database()]) as found:
        yield found


async def test_while_a_shard_is_away_the_others_go_on_and_then_it_is_caught_up(town: Town) -> None:
    async with running(town.recorder().run):
        await town.put()
        await town.mesh.all_recorded()
        async with away(town.urls[1]):
            for _ in range(20):
                await town.put()
                await town.reads(0)
            assert await town.stored(0) > 16
            assert town.progress.problem.startswith("shard 1 is left out, its readings wait in the Log: database ")
            with pytest.raises(Unavailable, match=r"^shard 1: database .* is away"):
                await town.mesh.recorded.offsets()
        await town.check(21)


async def test_a_worker_that_starts_while_a_shard_is_away_records_the_others(town: Town) -> None:
    await town.put(3)
    async with away(town.urls[0]), running(town.recorder().run) as (task,):
        await town.reads(1)
        task.cancel()
    async with running(town.recorder().run):
        await town.check(3)


async def test_with_no_shard_left_the_worker_ends_and_says_so(town: Town) -> None:
    worker = asyncio.create_task(town.recorder().run())
    await town.put(2)
    await town.mesh.all_recorded()
    async with away(town.urls[0]), away(town.urls[1]):
        await town.put()
        for task in (worker, asyncio.create_task(town.recorder().run())):
            with pytest.raises(Unavailable, match=r"no shard takes readings: database .* is away"):
                await asyncio.wait_for(task, PATIENCE_S)
    async with running(town.recorder().run):
        await town.check(3)


async def test_a_server_that_is_stopped_keeps_the_others_waiting_once_and_for_seconds(fresh_database: FreshDatabase) -> None:
    async with quick_postgres() as other:
        await other.create_database("wq_shard_1")
        urls = [await fresh_database(), other.url("wq_shard_1")]
        async with a_town(await fresh_database(), urls) as town, running(town.recorder().run):
            await town.put()
            await town.mesh.all_recorded()
            loop = asyncio.get_running_loop()
            with _stopped(other.pid):
                waits = []
                for _ in range(10):
                    began = loop.time()
                    await town.put()
                    await town.reads(0)
                    waits.append(loop.time() - began)
                assert sum(wait > WRITE_WITHIN_S for wait in waits) <= 1
                began = loop.time()
                with pytest.raises(Unavailable, match=r"^shard 1: database wq_shard_1 is away: no answer within 3 s"):
                    await town.mesh.recorded.offsets()
                assert loop.time() - began < WRITE_WITHIN_S
            await town.check(11)


async def test_a_shard_that_answers_but_writes_nothing_is_tried_less_and_less_often(town: Town) -> None:
    async with town.mesh.shards.engines[1].connect() as blocker, running(town.recorder().run):
        await town.put()
        await town.mesh.all_recorded()
        await blocker.execute(text("LOCK TABLE sensor_readings IN SHARE MODE"))
        for _ in range(5):
            await town.put()
            await town.reads(0)
        assert "shard 1 is left out" in town.progress.problem
        await blocker.rollback()
        await town.check(6)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Inside, a server and all its processes stand still: it takes connections, and answers nothing."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout.split()
    processes = [pid, *map(int, children)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def test_a_shard_rests_twice_as_long_after_each_failure_until_it_was_well_for_a_minute() -> None:
    now_s = 1000.0
    pauses = Pauses(random.Random(1), lambda: now_s)

    def rest_s() -> float:
        """How long it rests from now on, found by waiting."""
        nonlocal now_s
        began_s = now_s
        while not pauses.due(3):
            now_s += 0.01
        return now_s - began_s

    for expected_s in (1, 2, 4, 8, 16, 30, 30):
        pauses.failed(3, "why")
        assert expected_s * 0.5 <= rest_s() <= expected_s * 1.5 + 0.01
        pauses.answered(3)
        assert pauses.why == {}
    pauses.joined([3])
    now_s += 61
    pauses.failed(3, "why")
    assert rest_s() <= 1.51


def test_slots_that_are_close_go_on_together_and_those_that_are_far_behind_keep_them_not_waiting() -> None:
    offset = np.array([1000, 5, 1000 - CLOSE, 4, -1, 999 - CLOSE, 1000], np.int64)
    live = np.array([True, True, True, True, True, True, False])
    had = Had(offset, offset * 2, live)
    assert [group.tolist() for group in together(had)] == [[0, 2], [5], [1, 3, 4]]
    assert (had.next, had.reached, had.last_source) == (0, 1000, -2)
    assert had.skipped.tolist() == [*(offset[:6] * 2).tolist(), np.iinfo(np.int64).max]
