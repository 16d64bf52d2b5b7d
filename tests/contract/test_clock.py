"""What every Clock promises: time goes on, and sleeping waits for it."""

import asyncio
import time
from collections.abc import Callable

import pytest

from mesh.clock import ManualClock, SystemClock
from mesh.ports import Clock
from tests.conftest import START_US


@pytest.fixture(params=[SystemClock, lambda: ManualClock(START_US)], ids=["system", "manual"])
def any_clock(request: pytest.FixtureRequest) -> Clock:
    make: Callable[[], Clock] = request.param
    return make()


async def pass_time(clock: Clock, seconds: float) -> None:
    if isinstance(clock, ManualClock):
        clock.advance(seconds)
    else:
        await asyncio.sleep(seconds)  # not waited for: passing time is what is tested


async def test_sleeping_wakes_when_the_time_has_come_and_not_before(any_clock: Clock) -> None:
    began_us = any_clock.now_us()
    async with asyncio.TaskGroup() as group:
        sleeper = group.create_task(any_clock.sleep(0.05))
        await asyncio.sleep(0)
        assert not sleeper.done()
        await pass_time(any_clock, 0.06)
    assert any_clock.now_us() - began_us >= 50_000


async def test_a_sleep_of_nothing_or_less_returns(any_clock: Clock) -> None:
    async with asyncio.timeout(5):
        await any_clock.sleep(0)
        await any_clock.sleep(-1)


async def test_a_sleeper_can_be_cancelled(any_clock: Clock) -> None:
    sleeper = asyncio.ensure_future(any_clock.sleep(1000))
    await asyncio.sleep(0)
    sleeper.cancel()
    await pass_time(any_clock, 0.01)
    assert (await asyncio.gather(sleeper, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_the_system_clock_is_the_machines() -> None:
    assert abs(SystemClock().now_us() - time.time() * 1e6) < 1e6


async def test_the_manual_clock_wakes_sleepers_in_the_order_of_their_times(clock: ManualClock) -> None:
    woken: list[int] = []

    async def sleeper(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (3, 1, 2, 9):
            group.create_task(sleeper(seconds))
        await asyncio.sleep(0)
        assert clock.sleeping == 4
        clock.advance(5)
        await asyncio.sleep(0)
        assert woken == [1, 2, 3]
        assert clock.sleeping == 1
        clock.advance(5)
    assert clock.now_us() == START_US + 10_000_000
