"""Two shards on real PostgreSQL with a live map, a Log, and readings for both: what the tests of law 13 stand on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from sqlalchemy import text

from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import SystemClock
from mesh.ports import Partition
from mesh.shard_map import LiveShards
from mesh.shards import open_engine, transaction
from mesh.stages import Progress
from mesh.topics import ACCEPTED, SCREENED
from query_svc.record import Record
from query_svc.recorded import Recorded
from query_svc.tables import create_catalog_tables, create_shard_tables
from tests.builders import START_US, some_readings
from tests.query.deployment import PATIENCE_S, SCREENED_0, Deployment, until
from tests.query.shard_trouble import live_shards

SLOTS = 8


@dataclass(slots=True)
class Town:
    """Two shards, 0 and 1, whose map is live."""

    mesh: Deployment
    live: LiveShards
    urls: list[str]
    progress: Progress

    def recorder(self) -> Record:
        return Record(self.mesh.log, self.live, self.progress)

    def sensors(self, shard: int) -> list[int]:
        """Sixteen that were of this shard at first."""
        sensors = np.arange(1, 1000)
        return [int(sensor) for sensor in sensors[self.mesh.shards.of(sensors) == shard][:16]]

    async def put(self, count: int = 1, partition: Partition = SCREENED_0) -> None:
        """Records, each of 32 new readings of sensors of both shards."""
        sensors = self.sensors(0) + self.sensors(1)
        for _ in range(count):
            start = START_US + 10_000_000 * (1 + sum(self.mesh.sources.values()) + len(self.mesh.sources))
            await self.mesh.put(some_readings(32, sensors=sensors, start=start + partition.number), partition)

    async def reads(self, shard: int, number: int = 0) -> None:
        """Waits until everything that was put is recorded of this shard's sensors."""
        last = self.mesh.sources[Partition(SCREENED, number)]
        assert await self.mesh.recorded.wait_for({Partition(ACCEPTED, number): last}, PATIENCE_S, self.sensors(shard))

    async def stored(self, shard: int) -> int:
        async with transaction(self.mesh.shards.engines[shard]) as connection:
            return int((await connection.execute(text("SELECT count(*) FROM sensor_readings"))).scalar_one())

    async def check(self, records: int) -> None:
        """Everything is there, once, and nobody has a problem."""
        await self.mesh.all_recorded()
        assert await self.mesh.ledger() == {"stored": 32 * records}
        assert sum([await self.stored(shard) for shard in (0, 1)]) == 32 * records

        async def well() -> bool:
            return self.progress.problem == ""

        await until(well)


@asynccontextmanager
async def a_town(catalog_url: str, urls: list[str]) -> AsyncIterator[Town]:
    catalog = open_engine(catalog_url, 8)
    await create_catalog_tables(catalog)
    live = await live_shards(catalog, urls, SLOTS)
    for shard, engine in live.now.engines.items():
        await create_shard_tables(engine, SLOTS, live.now.slots_of_shard(shard))
    try:
        async with open_postgres_log(catalog_url, 4, SystemClock()) as log:
            mesh = Deployment(log, catalog, live.now, Recorded(live, log.log_id))
            yield Town(mesh, live, urls, Progress("record"))
    finally:
        await live.dispose()
        await catalog.dispose()
