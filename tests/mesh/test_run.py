"""Workers that crash are started again, later and later; signals stop a process once, and at once when they come again."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import structlog
from structlog.testing import capture_logs

from mesh.clock import ManualClock
from mesh.errors import Unavailable
from mesh.ports import Partition
from mesh.run import SAME_SIGNAL_S, WELL_AFTER_S, Worker, keep_running, running, stop_on_signals
from mesh.stages import Progress
from tests.flows.process import eventually

CRASH = ValueError("a defect")


class Half(random.Random):
    """Jitter that is always in the middle: a pause of exactly the backoff."""

    def random(self) -> float:
        return 0.5


class Runs:
    """A worker that counts its runs; each ends as the test says, or goes on for ever."""

    def __init__(self, *endings: BaseException | None) -> None:
        self.progress = Progress("stage")
        self.count = 0
        self._endings = endings

    async def work(self) -> None:
        self.count += 1
        if self.count > len(self._endings):
            await asyncio.Event().wait()
        if ending := self._endings[self.count - 1]:
            raise ending


@asynccontextmanager
async def kept(progress: Progress, work: Callable[[], Awaitable[None]], clock: ManualClock) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(keep_running(Worker(progress, work), clock, Half()))
    await settle()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    """Everybody who can run has run."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _fresh_logs() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(("ending", "longest_s"), [(CRASH, 10.0), (Unavailable("the database is away"), 2.0)])
async def test_a_worker_that_fails_is_started_again_after_a_growing_pause(
    clock: ManualClock, ending: Exception, longest_s: float
) -> None:
    runs = Runs(*[ending] * 12)
    async with kept(runs.progress, runs.work, clock):
        pauses = []
        while runs.count <= 10:
            before, waited_s = runs.count, 0.0
            while runs.count == before:
                clock.advance(0.1)
                waited_s += 0.1
                await settle()
            pauses.append(round(waited_s, 1))
    assert pauses == [min(longest_s, pause) for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10)]


async def test_a_worker_that_ran_well_for_half_a_minute_is_started_again_soon(clock: ManualClock) -> None:
    crash = asyncio.Event()
    count = 0

    async def work() -> None:
        nonlocal count
        count += 1
        if count > 6:
            await crash.wait()
        raise CRASH

    async with kept(Progress("stage"), work, clock):
        while count <= 6:
            clock.advance(1)
            await settle()
        clock.advance(31)
        crash.set()
        await settle()
        clock.advance(0.1)
        await settle()
        assert count == 8


async def test_a_crash_is_told_with_its_traceback_once_and_its_partitions_are_given_up(clock: ManualClock) -> None:
    runs = Runs(CRASH, CRASH, CRASH)
    runs.progress.started(Partition("accepted", 0), 7)
    with capture_logs() as logs:
        async with kept(runs.progress, runs.work, clock):
            while runs.count < 3:
                clock.advance(1)
                await settle()
            assert runs.progress.problem == "ValueError: a defect"
            assert runs.progress.next_offset == {}
    assert [(line["log_level"], line["exc_info"]) for line in logs] == [("error", CRASH)]


async def test_what_is_away_is_told_once_in_one_line_however_its_words_change(clock: ManualClock) -> None:
    runs = Runs(Unavailable("refused"), Unavailable("starting up"), Unavailable("refused"))
    with capture_logs() as logs:
        async with kept(runs.progress, runs.work, clock):
            while runs.count < 4:
                clock.advance(1)
                await settle()
            assert runs.progress.problem == "refused"
    assert [(line["log_level"], line["problem"]) for line in logs] == [("warning", "refused")]
    assert "exc_info" not in logs[0]


async def test_a_problem_is_forgotten_when_the_worker_runs_well_without_anything_to_do(clock: ManualClock) -> None:
    runs = Runs(CRASH)
    async with kept(runs.progress, runs.work, clock):
        clock.advance(0.1)
        await settle()
        clock.advance(WELL_AFTER_S - 0.1)
        await settle()
        assert runs.progress.problem
        clock.advance(0.1)
        await settle()
        assert runs.progress.problem == ""


async def test_a_problem_that_the_worker_tells_itself_stays(clock: ManualClock) -> None:
    runs = Runs(CRASH)
    async with kept(runs.progress, runs.work, clock):
        clock.advance(0.1)
        await settle()
        runs.progress.problem = "a disk is nearly full"
        clock.advance(2 * WELL_AFTER_S)
        await settle()
        assert runs.progress.problem == "a disk is nearly full"


@pytest.mark.parametrize("ending", [None, asyncio.CancelledError()])
async def test_a_worker_that_just_ends_or_waited_for_something_cancelled_is_started_again(
    clock: ManualClock, ending: BaseException | None
) -> None:
    runs = Runs(ending)
    async with kept(runs.progress, runs.work, clock):
        clock.advance(1)
        await settle()
        assert runs.count == 2


async def test_a_worker_that_is_told_to_end_ends_and_nobody_sleeps_on(clock: ManualClock) -> None:
    runs = Runs()
    async with kept(runs.progress, runs.work, clock) as task:
        task.cancel()
        await settle()
        assert task.cancelled()
    assert clock.sleeping == 0


async def test_leaving_the_block_ends_all_workers_and_an_error_inside_stays_what_it_is(clock: ManualClock) -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    workers = [Worker(Progress(name), work) for name in "ab"]

    async def fail_inside() -> None:
        async with running(workers, clock):
            await settle()
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        await fail_inside()
    assert len(ended) == 2


@contextmanager
def stopping() -> Iterator[tuple[asyncio.Event, list[float]]]:
    stop, again = asyncio.Event(), list[float]()
    with stop_on_signals(stop, lambda: again.append(time.monotonic())):
        yield stop, again


async def arrived(holds: Callable[[], bool]) -> None:
    await eventually(holds, 5, lambda: "no signal arrived")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    with stopping() as (stop, again):
        os.kill(os.getpid(), number)
        await arrived(stop.is_set)
        assert not again
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_second_signal_is_another_thing_but_one_that_was_sent_twice_is_one() -> None:
    with stopping() as (stop, again):
        os.kill(os.getpid(), signal.SIGINT)
        await arrived(stop.is_set)
        os.kill(os.getpid(), signal.SIGINT)
        assert not again
        began_s = time.monotonic()
        await arrived(lambda: time.monotonic() > began_s + SAME_SIGNAL_S)
        os.kill(os.getpid(), signal.SIGTERM)
        await arrived(lambda: len(again) == 1)


async def test_a_signal_that_was_ignored_before_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping() as (stop, _):
            os.kill(os.getpid(), signal.SIGHUP)
            await settle()
            assert not stop.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
