"""A resharding in a process of its own, as `wq reshard` is one, which can be killed at any step."""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection

from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.clock import SystemClock
from mesh.shards import open_engine
from query_svc.reshard.journal import open_journal
from query_svc.reshard.resharding import Means, Report, Resharding, Watch
from query_svc.reshard.throttle import Throttle
from query_svc.tables import create_shard_tables

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.query.resharder"])
_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Order:
    """What to do: `wanted` shards, 0: abort. `urls`: of the shards by address. `kill_at`: step and phase (see Watch)."""

    catalog_url: str
    urls: Mapping[str, str]
    wanted: int
    kill_at: tuple[str, str] = ("", "")
    mb_per_s: float = 0
    patience_s: float = 120
    within_s: float = 240


@dataclass(slots=True)
class Quiet:
    """Is told how it goes, and keeps it."""

    steps: list[tuple[str, int, str, str]] = field(default_factory=list)
    copied_bytes: int = 0

    def reached(self, what: str, number: int, step: str, phase: str) -> None:
        self.steps.append((what, number, step, phase))

    def copied(self, count: int) -> None:
        self.copied_bytes += count


class Killing(Quiet):
    """Ends this process as kill -9 does, at one step."""

    def __init__(self, at: tuple[str, str]) -> None:
        super().__init__()
        self._at = at

    def reached(self, what: str, number: int, step: str, phase: str) -> None:
        if (step, phase) == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


async def reshard(order: Order, watch: Watch) -> Report:
    """Here, in this process."""
    catalog = open_engine(order.catalog_url, 3)
    opened: dict[str, AsyncEngine] = {}

    def open_shard(address: str) -> AsyncEngine:
        if address not in opened:
            opened[address] = open_engine(order.urls[address], 3)
        return opened[address]

    try:
        async with open_journal(catalog) as journal:
            throttle = Throttle(order.mb_per_s * 1e6, _CLOCK)
            means = Means(catalog, open_shard, prepare, throttle, _CLOCK, watch, order.patience_s)
            resharding = Resharding(journal, means)
            return await (resharding.run(order.wanted, tuple(order.urls)) if order.wanted else resharding.abort())
    finally:
        for engine in (catalog, *opened.values()):
            await engine.dispose()


async def prepare(engine: AsyncEngine, slots: int) -> None:
    await create_shard_tables(engine, slots, [])


async def reshard_elsewhere(order: Order) -> Report | None:
    """In a process of its own; None: it was killed, as ordered."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_main, args=(order, theirs))
    await asyncio.to_thread(process.start)
    theirs.close()
    try:
        async with asyncio.timeout(order.within_s):
            await asyncio.to_thread(process.join, order.within_s)
        if process.exitcode == -signal.SIGKILL:
            return None
        assert process.exitcode == 0, f"the resharder ended with {process.exitcode}"
        report: Report = ours.recv()
        return report
    finally:
        process.kill()
        ours.close()


def _main(order: Order, result: Connection) -> None:
    result.send(asyncio.run(reshard(order, Killing(order.kill_at) if order.kill_at[0] else Quiet())))
