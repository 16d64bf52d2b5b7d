"""What is published on the board reaches the watchers of every process, whoever was away meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import numpy as np
import pytest

from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.clock import SystemClock
from mesh.codec.tasks import write_board
from mesh.errors import Unavailable
from mesh.ports import Exchange, Priority
from mesh.run import Worker
from mesh.run import running as kept_running
from mesh.stages import Progress
from query_svc.board import Board
from query_svc.selection import Selection
from query_svc.watch import Watch
from query_svc.watcher import Watcher
from tests.builders import START_US, a_reading, some_readings
from tests.conftest import FreshDatabase
from tests.contract.engines import cut_connections
from tests.query.deployment import PATIENCE_S, flag, running
from water.parameter import PARAMETERS
from water.readings import Readings

EVERYTHING = Selection(None, (), None, None, PARAMETERS, ())


@pytest.fixture
async def url(fresh_database: FreshDatabase) -> str:
    return await fresh_database()


@pytest.fixture
async def exchange(url: str) -> AsyncIterator[Exchange]:
    async with open_postgres_exchange(url, SystemClock()) as exchange:
        yield exchange


async def frame(watcher: Watcher) -> Readings:
    async with asyncio.timeout(PATIENCE_S):
        return await watcher.frame()


async def show_until_seen(exchange: Exchange, watcher: Watcher, first: int) -> Readings:
    """Publishes an ever newer reading until one is seen: a board that has just begun follows from some moment on."""
    seen = asyncio.create_task(frame(watcher))
    at = first
    while not seen.done():
        with suppress(Unavailable):
            await exchange.publish(Priority.MEDIUM, write_board("north", flag(a_reading(1, START_US + at))))
        at += 1
        await asyncio.sleep(0.02)
    return await seen


async def test_every_process_shows_every_update_to_its_watchers(exchange: Exchange) -> None:
    watches = Watch(), Watch()
    boards = [Board(exchange, watch, f"p{n}", Progress("board")) for n, watch in enumerate(watches)]
    working = running(*[board.run for board in boards])
    async with working, watches[0].follow(EVERYTHING) as one, watches[1].follow(EVERYTHING) as other:
        await show_until_seen(exchange, one, 0)
        await show_until_seen(exchange, other, 1_000)
        update = flag(some_readings(5_000, sensors=5_000, start=START_US + 10_000_000))
        await exchange.publish(Priority.MEDIUM, write_board("south", update))
        for watcher in (one, other):
            sensors: set[int] = set()
            while len(sensors) < 5_000:
                sensors |= set((await frame(watcher)).sensor_id.tolist())


async def test_a_watcher_of_one_region_is_not_shown_another(exchange: Exchange) -> None:
    watch = Watch()
    async with running(Board(exchange, watch, "p", Progress("board")).run), watch.follow(EVERYTHING) as everything:
        await show_until_seen(exchange, everything, 0)
        async with watch.follow(Selection(None, ("south",), None, None, PARAMETERS, ())) as south:
            for region, sensor in (("north", 5), ("south", 6)):
                await exchange.publish(Priority.MEDIUM, write_board(region, flag(a_reading(sensor))))
            assert (await frame(south)).sensor_id.tolist() == [6]


async def test_an_unreadable_update_is_left_out_and_the_next_one_is_shown(exchange: Exchange) -> None:
    watch, progress = Watch(), Progress("board")
    async with running(Board(exchange, watch, "p", progress).run), watch.follow(EVERYTHING) as watcher:
        await show_until_seen(exchange, watcher, 0)
        await exchange.publish(Priority.MEDIUM, b"\xff\xff")
        await show_until_seen(exchange, watcher, 1_000)
    assert progress.handled_count >= 3


async def test_connections_that_break_end_nothing_for_long(exchange: Exchange, url: str) -> None:
    watch, progress = Watch(), Progress("board")
    worker = Worker(progress, Board(exchange, watch, "p", progress).run)
    async with watch.follow(EVERYTHING) as watcher, kept_running((worker,), SystemClock()):
        for first in (0, 1_000, 2_000):
            await show_until_seen(exchange, watcher, first)
            await cut_connections(url)
        await show_until_seen(exchange, watcher, 3_000)


async def test_nothing_is_decoded_while_nobody_watches(exchange: Exchange) -> None:
    watch, progress = Watch(), Progress("board")
    async with running(Board(exchange, watch, "p", progress).run):
        while progress.handled_count < 3:
            await exchange.publish(Priority.MEDIUM, write_board("north", flag(a_reading(1))))
            await asyncio.sleep(0.02)
        async with watch.follow(EVERYTHING) as watcher:
            found = await show_until_seen(exchange, watcher, 1_000)
    assert np.all(found.measured_at_us >= START_US + 1_000)
