"""32 -> 40 -> 32 databases under 20,000 readings a second: measured where WQ_RESHARD=32 asks for it, some minutes long."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from itertools import count

import pytest

from mesh.adapters.directory import DirectoryObjects
from query_svc.reshard.resharding import Report
from tests.engines import quick_postgres
from tests.query.resharder import reshard_elsewhere
from tests.query.resharding_mesh import PARTITIONS, Load, Moving, moving, under_load
from tests.query.resharding_processes import beside

CLUSTERS = 5
QUIET_S = 20.0
BATCH = 8_000

pytestmark = pytest.mark.skipif(os.environ.get("WQ_RESHARD") != "32", reason="some minutes; WQ_RESHARD=32 runs it")


@pytest.fixture
async def mesh() -> AsyncIterator[Moving]:
    """The catalog and the Log on one server, the shards on four."""
    numbers = count()
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(quick_postgres()) for _ in range(CLUSTERS)]

        async def make() -> str:
            number = next(numbers)
            server = servers[0 if number == 0 else 1 + number % (CLUSTERS - 1)]
            await server.create_database(f"database_{number}")
            return server.url(f"database_{number}")

        yield await stack.enter_async_context(moving(make, shards=32, spare=8, slots=320))


@pytest.mark.timeout(1800)
async def test_from_32_to_40_and_back_under_20_000_readings_a_second(mesh: Moving, objects: DirectoryObjects) -> None:
    load, marks = Load(mesh, sensors=5_000, batch=BATCH), []
    gc.disable()  # millions of expected rows: a look at them all takes seconds

    async def measured(name: str, work: Awaitable[object]) -> None:
        began, put = time.monotonic(), sum(load.counts.values())
        await work
        seconds = time.monotonic() - began
        marks.append((name, began, time.monotonic(), (sum(load.counts.values()) - put) / seconds))

    with beside(mesh.order(32), load.sensors * PARTITIONS) as asked:
        async with under_load(
            mesh, load, objects, readers=1, recorders=0, ask_every_s=0.5, pause_s=0.1, most_behind=80
        ) as asking:
            await measured("32 shards", asyncio.sleep(QUIET_S))  # not waited for: a stretch to measure
            await measured("32 -> 40", _reshard(mesh, 40))
            await measured("40 shards", asyncio.sleep(QUIET_S))  # not waited for: a stretch to measure
            await measured("40 -> 32", _reshard(mesh, 32))
            await measured("32 shards", asyncio.sleep(QUIET_S))  # not waited for: a stretch to measure
    lines = [
        f"{name}: {end - began:.0f} s, {rate:,.0f} readings/s, {asked.between(began, end)}" for name, began, end, rate in marks
    ]
    print("\n".join(lines))  # noqa: T201 - what it is run for
    assert not [*asking.problems, *asked.problems], (asking.problems[:3], asked.problems[:3])
    await load.must_be_whole()


async def _reshard(mesh: Moving, wanted: int) -> None:
    report = await reshard_elsewhere(mesh.order(wanted, mb_per_s=20, within_s=900))
    assert isinstance(report, Report)
    assert report.slots == 64
    print(wanted, report)  # noqa: T201
