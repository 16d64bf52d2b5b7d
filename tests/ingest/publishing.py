"""A log, an exchange that can be away, and a catalog database: screened records in, tasks of the high queue out."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import psycopg
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc.board_updates import BoardUpdates
from ingest_svc.publish import STAGE, TOPICS, Publish
from mesh import positions
from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import SystemClock
from mesh.codec.log_records import Screened, write_screened
from mesh.codec.stamp import Stamp, hour_of, write_source, write_stamp
from mesh.codec.tasks import Task, read_task, write_task
from mesh.ports import Exchange, Log, Partition, Priority, Record
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import open_engine, transaction
from mesh.stages import Progress
from mesh.topics import SCREENED, SILENCE
from tests.builders import START_US, a_reading
from tests.conftest import FreshDatabase
from tests.contract.engines import cut_connections, libpq
from water.condition import Change, Condition, Kind
from water.readings import Readings, concatenate

LIVE = Partition(SCREENED, 0)
PATIENCE_S = 30.0


def a_task(number: int, severity: int = 3, change: Change = Change.RAISED, historical: bool = False) -> Task:
    """The condition `c-<number>`."""
    ended_us = START_US + 1 if change == Change.CLEARED else None
    condition = Condition(f"c-{number}", START_US, ended_us, change, 7, "weir", Kind.LIMIT, "ph-high", severity, START_US)
    return Task(condition, "g-1", "north", START_US, historical)


@dataclass(slots=True)
class Mesh:
    """What Publish stands on. `sources`: the last source offset of each partition that records were put in."""

    log: Log
    exchange: Exchange
    exchange_url: str
    catalog: AsyncEngine
    sources: dict[Partition, int] = field(default_factory=dict)

    async def put(
        self,
        *tasks: Task,
        partition: Partition = LIVE,
        readings: Readings | None = None,
        region: str = "north",
        source: tuple[int, int] | None = None,
        value: bytes | None = None,
        conditions: str | None = None,
    ) -> int:
        """One screened record with these conditions, whose source offsets follow those before; its offset."""
        previous = self.sources.get(partition, -1)
        number, previous = source or (previous + 1, previous)
        self.sources[partition] = number
        readings = flag(a_reading() if readings is None else readings)
        screened = Screened("g-1", 0, region, START_US, readings, number, previous, (), tasks)
        headers = write_stamp(Stamp("g-1", hour_of(START_US), len(readings))) | write_source(number, previous)
        if tasks or conditions:
            headers["conditions"] = conditions or str(len(tasks))
        return await self.append(partition, write_screened(screened) if value is None else value, headers)

    async def put_silence(self, task: Task, number: int = 0) -> int:
        """One record of `silence`; its offset."""
        return await self.append(Partition(SILENCE, number), write_task(task), {"conditions": "1"})

    async def append(self, partition: Partition, value: bytes, headers: dict[str, str]) -> int:
        return await (await self.log.append(partition, Record(value, headers)))

    async def positions(self) -> dict[Partition, Position]:
        """How far publish is, as kept."""
        async with transaction(self.catalog) as connection:
            found = await positions.read(connection, STAGE, self.log.log_id, TOPICS)
        return {partition: position for (slot, partition), position in found.items() if slot == NO_SLOT}

    async def passed(self) -> bool:
        """Whether everything in the log is passed."""
        had = await self.positions()
        ends = await self.log.ends(TOPICS)
        return all(had.get(partition, NOWHERE).next >= end.next for partition, end in ends.items() if end.next)

    async def high(self) -> list[Task]:
        """Everything in the high queue, in the order in which it would be taken; it stays there."""
        async with await psycopg.AsyncConnection.connect(libpq(self.exchange_url)) as connection:
            order = "SELECT body FROM exchange.tasks WHERE priority = %s ORDER BY severity DESC, task_id"
            rows = await (await connection.execute(order, (int(Priority.HIGH),))).fetchall()
        return [read_task(bytes(body)) for (body,) in rows]

    async def medium(self) -> list[bytes]:
        """The board tasks that are kept."""
        async with await psycopg.AsyncConnection.connect(libpq(self.exchange_url)) as connection:
            rows = await (await connection.execute("SELECT body FROM exchange.medium_tasks ORDER BY medium_id")).fetchall()
        return [bytes(body) for (body,) in rows]

    @asynccontextmanager
    async def without_exchange(self) -> AsyncIterator[None]:
        """Inside, its database takes no connection, and has lost those it had."""
        url = make_url(self.exchange_url)
        elsewhere = libpq(url.set(database="postgres").render_as_string(hide_password=False))
        async with await psycopg.AsyncConnection.connect(elsewhere, autocommit=True) as connection:
            await connection.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false'.encode())
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (url.database,))
            try:
                yield
            finally:
                await connection.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true'.encode())

    async def cut_exchange(self) -> None:
        """Every connection to it breaks, once."""
        await cut_connections(self.exchange_url)


def publisher(mesh: Mesh, progress: Progress | None = None, exchange: Exchange | None = None) -> Publish:
    """A Publish of its own, with a board of its own."""
    clock, exchange = SystemClock(), exchange or mesh.exchange
    board = BoardUpdates(exchange, clock)
    return Publish(mesh.log, exchange, mesh.catalog, progress or Progress(STAGE), clock, board)


@asynccontextmanager
async def a_mesh(fresh_database: FreshDatabase) -> AsyncIterator[Mesh]:
    """All of it new and empty."""
    url, exchange_url = await fresh_database(), await fresh_database()
    catalog = open_engine(url, 4)
    clock = SystemClock()
    try:
        async with transaction(catalog) as connection:
            await positions.create(connection)
        async with open_postgres_log(url, 4, clock) as log, open_postgres_exchange(exchange_url, clock) as exchange:
            yield Mesh(log, exchange, exchange_url, catalog)
    finally:
        await catalog.dispose()


@asynccontextmanager
async def running(work: Callable[[], Awaitable[None]]) -> AsyncIterator["asyncio.Task[None]"]:
    """The worker runs inside, and is cancelled at the end; its crash fails the block."""

    async def run() -> None:
        await work()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run())
        yield task
        task.cancel()


async def publish_all(mesh: Mesh, publish: Publish | None = None) -> None:
    """A worker runs until everything is passed."""
    async with running((publish or publisher(mesh)).run):
        await until(mesh.passed)


async def killed(task: "asyncio.Task[None]") -> None:
    """Cancels where it stands, and waits. Its half-made connections are closed, as those of a killed process are."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    gc.collect()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until it holds, at most 30 s."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 - what is waited for is a state of a database, not of this process
            await asyncio.sleep(0.01)


def flag(readings: Readings) -> Readings:
    return readings if readings.flags is not None else readings.with_flags(np.full(len(readings), 0x1111_1111, np.uint64))


def ids(tasks: Sequence[Task]) -> list[str]:
    return [task.condition.condition_id for task in tasks]


def together(*readings: Readings) -> Readings:
    return concatenate([flag(one) for one in readings])
