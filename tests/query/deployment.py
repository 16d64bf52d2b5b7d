"""A catalog, two shards and a Log on real PostgreSQL, and short ways to put records in and look at what came of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.postgres_log import PostgresLog, open_postgres_log
from mesh.clock import SystemClock
from mesh.codec.log_records import Screened, write_accepted, write_screened
from mesh.codec.stamp import Stamp, hour_of, write_source, write_stamp
from mesh.ports import Partition, Record
from mesh.shards import Shards, open_engine, spread, transaction
from mesh.stages import Progress
from mesh.topics import ACCEPTED, SCREENED
from query_svc.record import Record as Recorder
from query_svc.recorded import Recorded
from query_svc.tables import create_catalog_tables, create_shard_tables
from tests.builders import START_US
from water.readings import Readings

FreshDatabase = Callable[[], Awaitable[str]]
HOUR_US = hour_of(START_US)
SCREENED_0 = Partition(SCREENED, 0)
PATIENCE_S = 30.0


@dataclass(slots=True)
class Deployment:
    """What the workers of query_svc stand on. `sources`: the last source offset of each partition that records were put in."""

    log: PostgresLog
    catalog: AsyncEngine
    shards: Shards
    recorded: Recorded
    sources: dict[Partition, int] = field(default_factory=dict)

    async def put(
        self, readings: Readings, partition: Partition = SCREENED_0, gateway: str = "g1", region: str = "north", **more: Any
    ) -> int:
        """One screened record, whose source offsets follow those before; its offset."""
        previous = self.sources.get(partition, -1)
        source = more.get("source", previous + 1)
        self.sources[partition] = source
        flagged = readings if readings.flags is not None else flag(readings)
        screened = Screened(gateway, 0, region, START_US, flagged, source, more.get("previous", previous))
        stamp = Stamp(gateway, more.get("hour_us", HOUR_US), len(readings))
        headers = write_stamp(stamp) | write_source(source, more.get("previous", previous))
        return await self.append(partition, more.get("value", write_screened(screened)), headers)

    async def accept(self, readings: Readings, number: int = 0, gateway: str = "g1", hour_us: int = HOUR_US) -> int:
        """One accepted record; its offset."""
        value = write_accepted(gateway, 0, "north", START_US, readings)
        return await self.append(Partition(ACCEPTED, number), value, write_stamp(Stamp(gateway, hour_us, len(readings))))

    async def append(self, partition: Partition, value: bytes, headers: dict[str, str] | None = None) -> int:
        return await (await self.log.append(partition, Record(value, headers or {})))

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """The answers of all shards, in no order."""

        async def read(_: int, engine: AsyncEngine) -> list[tuple[Any, ...]]:
            async with transaction(engine) as connection:
                return [tuple(row) for row in await connection.execute(text(statement))]

        return [row for part in await self.shards.gather(read) for row in part]

    async def catalog_rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with transaction(self.catalog) as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]

    async def ledger(self) -> dict[str, int]:
        """Sums over catalog and shards by measure, for all gateways and hours."""
        statement = "SELECT measure, count FROM ledger"
        sums: dict[str, int] = {}
        for measure, count in await self.rows(statement) + await self.catalog_rows(statement):
            sums[measure] = sums.get(measure, 0) + count
        return sums

    async def all_recorded(self) -> None:
        """Waits until everything that was put is recorded."""
        wanted = {Partition(_SOURCE[partition.topic], partition.number): last for partition, last in self.sources.items()}
        assert await self.recorded.wait_for(wanted, PATIENCE_S), f"recorded {await self.recorded.offsets()} of {wanted}"


def a_recorder(mesh: Deployment, progress: Progress | None = None) -> Recorder:
    return Recorder(mesh.log, mesh.shards, progress or Progress("record"))


async def record_all(mesh: Deployment) -> None:
    """A worker runs until everything that was put is recorded, and is then cancelled."""
    async with running(a_recorder(mesh).run):
        await mesh.all_recorded()


async def stored(mesh: Deployment) -> int:
    """Rows in all shards."""
    return sum(int(count) for (count,) in await mesh.rows("SELECT count(*) FROM sensor_readings"))


@asynccontextmanager
async def deployed(fresh_database: FreshDatabase, slots: int = 8) -> AsyncIterator[Deployment]:
    """A new deployment with its tables."""
    catalog_url = await fresh_database()  # holds the Log too, as in the embedded default
    catalog = open_engine(catalog_url, 8)
    engines = (open_engine(await fresh_database(), 4), open_engine(await fresh_database(), 4))
    shards = spread(slots, engines)
    await create_catalog_tables(catalog)
    await shards.gather(lambda shard, engine: create_shard_tables(engine, slots, shards.slots_of_shard(shard)))
    try:
        async with open_postgres_log(catalog_url, 4, SystemClock()) as log:
            yield Deployment(log, catalog, shards, Recorded(shards, log.log_id))
    finally:
        for engine in (catalog, *engines):
            await engine.dispose()


@asynccontextmanager
async def running(*work: Callable[[], Awaitable[None]]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Runs workers beside the block and cancels them at its end. A worker that fails fails the block."""

    async def run(one: Callable[[], Awaitable[None]]) -> None:
        await one()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(one)) for one in work]
        yield tasks
        for task in tasks:
            task.cancel()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until it holds, at most 30 s."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 - what is waited for is a state of a database, not of this process
            await asyncio.sleep(0.02)


async def end(task: "asyncio.Task[None]") -> None:
    """Cancels, as a killed process would be, and waits."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def flag(readings: Readings, packed: int = 0x1111_1111) -> Readings:
    return readings.with_flags(np.full(len(readings), packed, np.uint64))


def sensors_of_shard(shards: Shards, shard: int, count: int) -> Sequence[int]:
    """Sensor ids that belong to this shard."""
    sensors = np.arange(1, 1000 * count)
    return [int(sensor) for sensor in sensors[shards.of(sensors) == shard][:count]]


_SOURCE = {"screened": "accepted", "screened_backfill": "backfill"}
