"""The stages of the mesh on real engines inside one test, each of which may crash, be doubled or restarted at any moment."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from ingest_svc.accept import Acceptor, Handed
from ingest_svc.judge import Limits
from ingest_svc.screen import Screen
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_log import PostgresLog, open_postgres_log
from mesh.clock import SystemClock
from mesh.codec.ingest_frames import BatchFrame, Opening
from mesh.run import Worker, keep_running
from mesh.shards import Shards, open_engine, spread
from mesh.stages import Progress
from query_svc.count import Count
from query_svc.fences import Fences
from query_svc.ledger_answer import LedgerAnswer, Page, Question
from query_svc.record import Record
from query_svc.recorded import Recorded
from query_svc.tables import create_catalog_tables, create_shard_tables
from tests.conftest import FreshDatabase
from water.readings import Readings

SLOTS = 8
PATIENCE_S = 60.0
STAGES = ("screen", "record", "count")


@dataclass(slots=True)
class Mesh:
    """Log, shards and catalog, and the workers that run on them now."""

    log: PostgresLog
    url: str
    shards: Shards
    acceptor: Acceptor
    ledger: LedgerAnswer
    make: dict[str, Callable[[Progress], Callable[[], Awaitable[None]]]]
    workers: dict[str, list[asyncio.Task[None]]] = field(default_factory=lambda: {stage: [] for stage in STAGES})

    def start(self, stage: str) -> None:
        """One more worker of this stage; with two of them the partitions are shared anew."""
        progress = Progress(stage)
        work = self.make[stage](progress)
        task = asyncio.create_task(keep_running(Worker(progress, work), SystemClock(), random.Random(1)))
        self.workers[stage].append(task)

    async def crash(self, stage: str) -> None:
        """The oldest worker of the stage dies where it stands; nothing of it is committed any more."""
        if self.workers[stage]:
            task = self.workers[stage].pop(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def hand_over(self, opening: Opening, sequence: int, readings: Readings) -> Handed:
        """A batch accepted and durable, as an acknowledged one is."""
        handed = await self.acceptor.hand_over(opening, BatchFrame(sequence, readings, 1000))
        for delivery in handed.deliveries:
            await delivery
        return handed

    async def caught_up(self) -> Page:
        """The ledger once every stage has passed everything."""
        for stage in STAGES:
            if not self.workers[stage]:
                self.start(stage)
        assert await self.ledger.caught_up({}, PATIENCE_S), "the stages did not catch up"
        return await self.ledger.page(Question(page_size=10_000))

    async def rows(self, columns: str) -> list[tuple[Any, ...]]:
        """These columns of sensor_readings, of all shards, by sensor and time."""
        found: list[tuple[Any, ...]] = []
        for engine in self.shards.engines.values():
            async with engine.connect() as connection:
                result = await connection.execute(text(f"SELECT sensor_id, timestamp, {columns} FROM sensor_readings"))
                found += [tuple(row) for row in result]
        return sorted(found, key=lambda row: (row[0], row[1]))


@asynccontextmanager
async def a_mesh(fresh_database: FreshDatabase, objects: DirectoryObjects) -> AsyncIterator[Mesh]:
    """Fresh and without workers; they end with the block."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        url = await fresh_database()
        catalog = open_engine(url, 5)
        engines = tuple([open_engine(await fresh_database(), 5) for _ in range(2)])
        for engine in (catalog, *engines):
            stack.push_async_callback(engine.dispose)
        shards = spread(SLOTS, engines)
        await create_catalog_tables(catalog)
        for shard, engine in enumerate(engines):
            await create_shard_tables(engine, SLOTS, shards.slots_of_shard(shard))
        log = await stack.enter_async_context(open_postgres_log(url, 4, clock))
        recorded = Recorded(shards, log.log_id)
        fences = Fences(log, catalog, recorded, clock)
        mesh = Mesh(
            log,
            url,
            shards,
            Acceptor(log, clock, Limits(), Progress("accept")),
            LedgerAnswer(log, catalog, shards, recorded, clock),
            {
                "screen": lambda progress: Screen(log, objects, clock, progress, _nowhere).run,
                "record": lambda progress: Record(log, shards, progress).run,
                "count": lambda progress: Count(log, catalog, fences, clock, progress).run,
            },
        )
        try:
            yield mesh
        finally:
            for stage in STAGES:
                while mesh.workers[stage]:
                    await mesh.crash(stage)


async def _nowhere(partition: object, offset: int) -> None:
    """Retention is not part of these tests."""
