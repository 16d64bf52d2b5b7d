"""Recorders and a stopwatch of queries in processes of their own, beside a resharding."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import numpy as np
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import SystemClock
from mesh.errors import WaterError
from mesh.shard_map import FollowMap, LiveShards, read_map
from mesh.shards import open_engine
from mesh.stages import Progress
from query_svc.answer import Answer, Paging
from query_svc.filters import ReadingFilter
from query_svc.freshness import Freshness
from query_svc.places import Places
from query_svc.record import Record
from query_svc.recorded import Recorded
from tests.query.resharder import CONTEXT, Order

PARTITIONS = 4
ASK_EVERY_S = 0.1
_CLOCK = SystemClock()


@dataclass(slots=True)
class Asked:
    """When each query began (monotonic seconds) and how long it took, and what went wrong."""

    began: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def between(self, start: float, end: float) -> str:
        """A line about the queries that began then."""
        began, took = np.array(self.began), np.array(self.seconds) * 1000
        took = took[(began >= start) & (began < end)]
        p50, p99 = (float(np.percentile(took, share)) for share in (50, 99)) if len(took) else (0.0, 0.0)
        return f"{len(took)} queries, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


@contextmanager
def beside(order: Order, sensors: int) -> Iterator[Asked]:
    """A recorder and a stopwatch run during the block; what the stopwatch saw is in the answer at its end."""
    stop = CONTEXT.Event()
    ours, theirs = CONTEXT.Pipe(duplex=False)
    processes = [
        CONTEXT.Process(target=_record, args=(order, stop)),
        CONTEXT.Process(target=_ask, args=(order, sensors, stop, theirs)),
    ]
    for process in processes:
        process.start()
    asked = Asked()
    try:
        yield asked
        stop.set()
        found: Asked = ours.recv()
        asked.began, asked.seconds, asked.problems = found.began, found.seconds, found.problems
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()


def _record(order: Order, stop: Event) -> None:
    uvloop.run(_recording(order, stop))


def _ask(order: Order, sensors: int, stop: Event, result: Connection) -> None:
    result.send(uvloop.run(_asking(order, sensors, stop)))


async def _recording(order: Order, stop: Event) -> None:
    catalog, live = await _opened(order)
    async with open_postgres_log(order.catalog_url, PARTITIONS, _CLOCK) as log:
        work = (Record(log, live, Progress("record")).run, FollowMap((live,), Progress("shard_map"), _CLOCK).run)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for one in work]
            while not stop.is_set():  # noqa: ASYNC110 - an event of another process
                await asyncio.sleep(0.2)
            for task in tasks:
                task.cancel()
    await live.dispose()
    await catalog.dispose()


async def _asking(order: Order, sensors: int, stop: Event) -> Asked:
    """Ten questions a second for some sensors by name, half of them for many."""
    catalog, live = await _opened(order)
    asked, random = Asked(), np.random.default_rng(3)
    async with open_postgres_log(order.catalog_url, PARTITIONS, _CLOCK) as log:
        answer = Answer(live, Places(catalog), Recorded(live, log.log_id), log.log_id)
        while not stop.is_set():
            some = tuple(np.unique(random.integers(1, sensors, 10 if len(asked.seconds) % 2 else 200)).tolist())
            began = time.monotonic()
            try:
                await answer.get_latest(ReadingFilter(sensor_ids=some), Paging(1_000), Freshness())
            except WaterError as error:
                asked.problems.append(repr(error))
            asked.began.append(began)
            asked.seconds.append(time.monotonic() - began)
            await asyncio.sleep(max(0.0, ASK_EVERY_S - asked.seconds[-1]))  # the rate of the questions
    await live.dispose()
    await catalog.dispose()
    return asked


async def _opened(order: Order) -> tuple[AsyncEngine, LiveShards]:
    catalog = open_engine(order.catalog_url, 3)
    found = await read_map(catalog)
    assert found is not None
    return catalog, LiveShards(catalog, found, lambda name: open_engine(order.urls[name], 2))
