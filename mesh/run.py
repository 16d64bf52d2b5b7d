"""Runs workers until they are told to stop: restarts what crashes, with backoff, and says so."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog

from mesh.ports import Clock
from mesh.stages import Progress

_log = structlog.get_logger()
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 10.0
HEALTHY_AFTER_US = 30_000_000


async def keep_running(work: Callable[[], Awaitable[None]], progress: Progress, clock: Clock, chance: random.Random) -> None:
    """Runs `work` for ever. When it fails (law 12: our fault stops the worker, uncommitted) it is started again after a
    growing, jittered pause; `progress.problem` says why until something is covered again."""
    backoff_s = FIRST_BACKOFF_S
    while True:
        started_us = clock.now_us()
        try:
            await work()
            _log.warning("worker ended by itself", stage=progress.stage)
        except Exception as error:  # noqa: BLE001 - the one place where a worker's crash is caught
            _log.exception("worker crashed", stage=progress.stage, error=str(error))
            progress.problem = f"{type(error).__name__}: {error}"[:500]
        progress.left(list(progress.next_offset))
        if clock.now_us() - started_us > HEALTHY_AFTER_US:
            backoff_s = FIRST_BACKOFF_S
        await clock.sleep(backoff_s * (0.5 + chance.random()))
        backoff_s = min(LONGEST_BACKOFF_S, backoff_s * 2)


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
