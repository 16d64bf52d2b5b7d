"""Runs workers until they are told to stop: restarts what crashes, with backoff, and says so."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog

from mesh.ports import Clock
from mesh.stages import Progress

_log = structlog.get_logger()
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 10.0
HEALTHY_AFTER_US = 30_000_000


@dataclass(frozen=True, slots=True)
class Worker:
    """One arrow that runs until it is cancelled, and what it says of itself."""

    progress: Progress
    work: Callable[[], Awaitable[None]]


async def keep_running(worker: Worker, clock: Clock, chance: random.Random) -> None:
    """Runs the worker for ever. When it fails (law 12: our fault stops the worker, uncommitted) it is started again after a
    growing, jittered pause; `progress.problem` says why until something is covered again."""
    progress = worker.progress
    backoff_s = FIRST_BACKOFF_S
    while True:
        started_us = clock.now_us()
        try:
            await worker.work()
            _log.warning("worker ended by itself", stage=progress.stage)
        except Exception as error:  # noqa: BLE001 - the one place where a worker's crash is caught
            _log.exception("worker crashed", stage=progress.stage, error=str(error))
            progress.problem = f"{type(error).__name__}: {error}"[:500]
        progress.left(list(progress.next_offset))
        if clock.now_us() - started_us > HEALTHY_AFTER_US:
            backoff_s = FIRST_BACKOFF_S
        await clock.sleep(backoff_s * (0.5 + chance.random()))
        backoff_s = min(LONGEST_BACKOFF_S, backoff_s * 2)


@asynccontextmanager
async def running(workers: Iterable[Worker], clock: Clock) -> AsyncIterator[None]:
    """Keeps all of them running while the block runs, then cancels them where they stand: safe at any moment (law 4)."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(keep_running(worker, clock, random.Random())) for worker in workers]
        try:
            yield
        finally:
            for task in started:
                task.cancel()


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stop`; a second one is left to Python (KeyboardInterrupt, the default action)."""
    loop = asyncio.get_running_loop()

    def first(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, first, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
