"""The stages of the mesh on real engines inside one test, each of which may crash, be doubled or restarted at any moment."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc.accept import Acceptor, Handed
from ingest_svc.judge import Limits
from ingest_svc.screen import Screen
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_log import PostgresLog, open_postgres_log
from mesh.clock import SystemClock
from mesh.codec.ingest_frames import BatchFrame, Opening
from mesh.run import Worker, keep_running
from mesh.shard_map import FollowMap, LiveShards
from mesh.shards import open_engine, transaction
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL
from query_svc.count import Count
from query_svc.fences import Fences, last_offsets
from query_svc.ledger_answer import LedgerAnswer, Page, Question
from query_svc.record import Record
from query_svc.recorded import Recorded
from query_svc.tables import create_catalog_tables, create_shard_tables
from tests.conftest import FreshDatabase
from tests.query.shard_trouble import come_back, live_shards
from water.readings import Readings

SLOTS = 8
PATIENCE_S = 60.0
STAGES = ("screen", "record", "count")


@dataclass(slots=True)
class Mesh:
    """Log, shards and catalog, and the workers that run on them now."""

    log: PostgresLog
    url: str
    shard_urls: list[str]
    catalog: AsyncEngine
    shards: LiveShards
    recorded: Recorded
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

    async def living_recorded(self, shard: int) -> None:
        """Waits until everything that was accepted so far is screened, and recorded in this shard, whatever the others do."""
        for stage in ("screen", "record"):
            if not self.workers[stage]:
                self.start(stage)
        wanted = last_offsets(await self.log.ends((ACCEPTED, BACKFILL)))
        shards = await self.shards.newer()
        sensors = [sensor for sensor in range(1, 100) if shards.of(np.array([sensor]))[0] == shard]
        assert await self.recorded.wait_for(wanted, PATIENCE_S, sensors), f"shard {shard} waits for another"

    async def mend(self) -> None:
        """Every shard takes connections, and every slot readings."""
        for url in self.shard_urls:
            await come_back(url)
        for engine in self.shards.now.engines.values():
            async with transaction(engine) as connection:
                await connection.execute(text("UPDATE owned_slots SET writable = true"))

    async def caught_up(self) -> Page:
        """The ledger once every stage has passed everything."""
        await self.mend()
        for stage in STAGES:
            if not self.workers[stage]:
                self.start(stage)
        assert await self.ledger.caught_up({}, PATIENCE_S), "the stages did not catch up"
        return await self.ledger.page(Question(page_size=10_000))

    async def rows(self, columns: str) -> list[tuple[Any, ...]]:
        """These columns of sensor_readings, of all shards, by sensor and time."""
        found: list[tuple[Any, ...]] = []
        for engine in self.shards.now.engines.values():
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
        urls = [await fresh_database() for _ in range(2)]
        stack.push_async_callback(catalog.dispose)
        await create_catalog_tables(catalog)
        shards = await live_shards(catalog, urls, SLOTS, 6)
        stack.push_async_callback(shards.dispose)
        for shard, engine in shards.now.engines.items():
            await create_shard_tables(engine, SLOTS, shards.now.slots_of_shard(shard))
        log = await stack.enter_async_context(open_postgres_log(url, 4, clock))
        recorded = Recorded(shards, log.log_id)
        fences = Fences(log, catalog, recorded, clock)
        mesh = Mesh(
            log,
            url,
            urls,
            catalog,
            shards,
            recorded,
            Acceptor(log, clock, Limits(), Progress("accept")),
            LedgerAnswer(log, catalog, shards, recorded, clock),
            {
                "screen": lambda progress: Screen(log, objects, clock, progress, _nowhere).run,
                "record": lambda progress: Record(log, shards, progress).run,
                "count": lambda progress: Count(log, catalog, fences, clock, progress).run,
            },
        )
        follow = asyncio.create_task(FollowMap([shards], Progress("map"), clock).run())
        try:
            yield mesh
        finally:
            follow.cancel()
            await mesh.mend()
            for stage in STAGES:
                while mesh.workers[stage]:
                    await mesh.crash(stage)


async def _nowhere(partition: object, offset: int) -> None:
    """Retention is not part of these tests."""
