"""Whole deployments for restores: what was sent is recorded and archived on real engines, and put back into another one."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from archive_svc import restore_tables, tables
from archive_svc.archive import Archive
from archive_svc.manifest import Wanted
from archive_svc.restore import Restore, Restored
from mesh.adapters.directory import DirectoryObjects
from mesh.clock import SystemClock
from mesh.ports import Objects, Partition
from mesh.stages import Progress
from mesh.topics import RESTORED, SCREENED, SCREENED_BACKFILL
from query_svc.archived import Archived
from query_svc.losers_export import LosersExport
from query_svc.record_restored import RecordRestored
from query_svc.tables import VALUE_COLUMNS
from tests.builders import START_US, some_readings
from tests.query.deployment import PATIENCE_S, Deployment, FreshDatabase, deployed, record_all, running
from water.readings import Readings

DAY_US = 86_400_000_000
TABLE = f"SELECT sensor_id, timestamp, {', '.join(VALUE_COLUMNS)}, flags, region FROM sensor_readings"
_SOURCE = {SCREENED: "accepted", SCREENED_BACKFILL: "backfill"}


@dataclass(slots=True)
class Station:
    """A deployment with an archive, and the archives of others that it may restore from."""

    mesh: Deployment
    objects: Objects
    folder: Path
    sources: dict[str, Objects] = field(default_factory=dict)

    async def table(self) -> list[tuple[Any, ...]]:
        """All readings, every value with its flags and region, by key."""
        return sorted(await self.mesh.rows(TABLE))

    async def record_and_archive(self) -> None:
        """Everything that was put is recorded, archived, and its losers are exported on return."""
        await record_all(self.mesh)
        await self.archive()
        await self.export()

    async def archive(self) -> None:
        archive = Archive(self.mesh.log, self.objects, self.mesh.catalog, Progress("archive"), SystemClock(), 0.05, 5_000)
        archive.hurry()
        archived = Archived(self.mesh.catalog, self.mesh.log.log_id, SystemClock())
        wanted = {Partition(_SOURCE[place.topic], place.number): last for place, last in self.mesh.sources.items()}
        async with running(archive.run):
            assert await archived.wait_for(wanted, PATIENCE_S)

    async def export(self) -> None:
        export = LosersExport(self.mesh.shards, self.objects, self.mesh.log.log_id, SystemClock(), Progress("losers_export"))
        await export.export()

    def restore(self, told_within_s: float = 0.0) -> Restore:
        clock = SystemClock()
        return Restore(self.mesh.log, self.objects, self.sources, self.mesh.catalog, self.mesh.shards, clock, told_within_s)

    async def restore_all(self, source: str = "", wanted: Wanted | None = None) -> list[Restored]:
        """The whole of a restore, and the table has it on return."""
        found = [one async for one in self.restore().run(wanted or Wanted(), source)]
        await self.record_restored()
        return found

    async def record_restored(self) -> None:
        ends = {partition: span.next - 1 for partition, span in (await self.mesh.log.ends((RESTORED,))).items()}
        async with running(RecordRestored(self.mesh.log, self.mesh.shards, Progress("record_restored")).run):
            assert await self.mesh.recorded.wait_for(ends, PATIENCE_S)


@asynccontextmanager
async def station(fresh_database: FreshDatabase, folder: Path) -> AsyncIterator[Station]:
    """A new and empty one."""
    async with deployed(fresh_database) as mesh:
        await tables.create_tables(mesh.catalog)
        await restore_tables.create_tables(mesh.catalog)
        yield Station(mesh, DirectoryObjects(folder), folder)


async def send_history(mesh: Deployment) -> None:
    """Three gateways in two regions and both lanes over three days: with duplicates, in one partition with other flags, and with
    conflicts within a partition, between partitions and between lanes."""
    for number, region in ((0, "north"), (1, "south"), (3, "north")):
        sensors = list(range(number * 100 + 1, number * 100 + 21))
        for day in range(3):
            readings = some_readings(600, sensors=sensors, seed=day, start=START_US + day * DAY_US, absent=0.3)
            place = Partition(SCREENED, number)
            await mesh.put(random_flags(readings, day), place, f"g{number}", region)
            await mesh.put(random_flags(readings.take(np.arange(50)), day + 10), place, f"g{number}", region)
            await mesh.put(random_flags(other_ph(readings.take(np.arange(20, 60)), 2.5), day), place, f"g{number}", region)
    first = some_readings(600, sensors=list(range(1, 21)), seed=0, absent=0.3)
    late = Partition(SCREENED_BACKFILL, 2)
    await record_all(mesh)
    await mesh.put(random_flags(other_ph(first.take(np.arange(0, 300)), 3.5), 1), late, "g9", "south")
    await mesh.put(random_flags(some_readings(200, sensors=[501], start=START_US - DAY_US), 1), late, "g9", "south")
    await mesh.put(random_flags(other_ph(first.take(np.arange(100, 200)), 4.5), 1), Partition(SCREENED, 2), "g9", "west")


def random_flags(readings: Readings, seed: int) -> Readings:
    return readings.with_flags(np.random.default_rng(seed).integers(0, 2**64, len(readings), dtype=np.uint64))


def other_ph(readings: Readings, ph: float) -> Readings:
    values = readings.values.copy()
    values[0] = ph
    return Readings(readings.sensor_id, readings.measured_at_us, values)


def files(folder: Path, suffix: str) -> Sequence[Path]:
    """Of an archive in this directory, in order."""
    return sorted(folder.rglob(f"*{suffix}"))
