"""Runs workers until they are told to stop: restarts what crashes, with backoff, and says so."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import FrameType

import structlog

from mesh.errors import Unavailable, WaterError
from mesh.ports import Clock
from mesh.stages import Progress

_log = structlog.get_logger()
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 10.0
LONGEST_AWAY_S = 2.0  # to look whether something is there again costs little, and it may be there soon
HEALTHY_AFTER_US = 30_000_000
WELL_AFTER_S = 10.0  # longer than any wait for a database that does not answer
SAME_SIGNAL_S = 0.1  # `timeout` and some shells send one Ctrl-C twice


@dataclass(frozen=True, slots=True)
class Worker:
    """One arrow that runs until it is cancelled, and what it says of itself."""

    progress: Progress
    work: Callable[[], Awaitable[None]]


async def keep_running(worker: Worker, clock: Clock, chance: random.Random) -> None:
    """Runs the worker for ever. When it fails (law 12: our fault stops the worker, uncommitted) it is started again after a
    growing, jittered pause; `progress.problem` says why until something is covered again, or it has run well for 10 s. The same
    problem again and again, and that something is still away, is logged once."""
    progress = worker.progress
    backoff_s, said = FIRST_BACKOFF_S, ""
    while True:
        started_us = clock.now_us()
        crash: Exception | None = None
        try:
            async with _easing(progress, clock):
                await worker.work()
            problem = "the worker ended by itself"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            problem = "something that the worker waited for was cancelled"  # by others: nobody told the worker to end
        except Exception as error:  # noqa: BLE001 - the one place where a worker's crash is caught
            problem = error.message if isinstance(error, WaterError) else f"{type(error).__name__}: {error}"
            crash = error
        if clock.now_us() - started_us > HEALTHY_AFTER_US:
            backoff_s, said = FIRST_BACKOFF_S, ""
        saying = "away" if isinstance(crash, Unavailable) else problem
        if saying != said:
            _say(progress.stage, problem, crash)
        said = saying
        progress.problem = problem[:500]
        progress.left(list(progress.next_offset))
        longest_s = LONGEST_AWAY_S if isinstance(crash, Unavailable) else LONGEST_BACKOFF_S
        await clock.sleep(min(longest_s, backoff_s) * (0.5 + chance.random()))
        backoff_s = min(LONGEST_BACKOFF_S, backoff_s * 2)


def _say(stage: str, problem: str, crash: Exception | None) -> None:
    if crash is None or isinstance(crash, WaterError):
        _log.warning("worker stopped, it is started again", stage=stage, problem=problem)
    else:
        _log.error("worker crashed, it is started again", stage=stage, problem=problem, exc_info=crash)


@asynccontextmanager
async def _easing(progress: Progress, clock: Clock) -> AsyncIterator[None]:
    """Forgets the problem that a worker began with when it runs well for a while without anything to cover."""

    async def ease(problem: str) -> None:
        await clock.sleep(WELL_AFTER_S)
        if progress.problem == problem:
            progress.problem = ""

    task = asyncio.create_task(ease(progress.problem))
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def running(workers: Iterable[Worker], clock: Clock) -> AsyncIterator[None]:
    """Keeps all of them running while the block runs, then cancels them where they stand: safe at any moment (law 4). They
    have ended on return."""
    started = [asyncio.create_task(keep_running(worker, clock, random.Random())) for worker in workers]
    try:
        yield
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)


def _interrupt() -> None:
    raise KeyboardInterrupt


@contextmanager
def stop_on_signals(stop: asyncio.Event, again: Callable[[], None] = _interrupt) -> Iterator[None]:
    """SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is gone; left alone where it is ignored, as under nohup) set `stop`. A
    second SIGINT or SIGTERM calls `again`, at once, whatever the loop does: KeyboardInterrupt unless told otherwise."""
    loop = asyncio.get_running_loop()
    strong = (signal.SIGINT, signal.SIGTERM)
    first_s = 0.0

    def second(_number: int, _frame: FrameType | None) -> None:
        if time.monotonic() - first_s > SAME_SIGNAL_S:
            again()

    def first() -> None:
        nonlocal first_s
        first_s = time.monotonic()
        for number in strong:
            loop.remove_signal_handler(number)
            signal.signal(number, second)
        stop.set()

    for number in strong:
        loop.add_signal_handler(number, first)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    try:
        yield
    finally:
        for number in (*strong, signal.SIGHUP):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
