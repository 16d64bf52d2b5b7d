"""A Log, archives of it (each with a catalog and objects of its own), and short ways to fill one and look at the others."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.archive import Archive
from archive_svc.chunks import STAGE, TOPICS
from archive_svc.contents import pieces
from archive_svc.manifest import Manifest, Wanted
from archive_svc.manifest_record import ManifestRow
from archive_svc.restore_tables import create_tables as create_restore_tables
from archive_svc.tables import create_tables
from archive_svc.unpacked import Unpacked, join
from mesh import positions
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_log import PostgresLog
from mesh.clock import ManualClock
from mesh.codec.log_records import Screened, write_screened
from mesh.codec.stamp import Stamp, hour_of, write_source, write_stamp
from mesh.errors import Unavailable
from mesh.ports import Objects, Partition, Record
from mesh.shards import open_engine, transaction
from mesh.stages import Progress
from mesh.topics import SCREENED
from query_svc.tables import create_catalog_tables
from tests.builders import START_US, some_readings
from tests.conftest import FreshDatabase
from water.readings import Readings

HOUR_US = hour_of(START_US)
SCREENED_0 = Partition(SCREENED, 0)
PATIENCE_S = 30.0


@dataclass(slots=True)
class Place:
    """Where one archive stands: the catalog database and the objects."""

    log: PostgresLog
    catalog: AsyncEngine
    folder: Path
    objects: DirectoryObjects
    clock: ManualClock
    manifest: Manifest

    def archive(self, objects: Objects | None = None, progress: Progress | None = None, **more: Any) -> Archive:
        """A worker. It archives as soon as nothing more is at hand, unless `hurried` is False."""
        hurried = more.pop("hurried", True)
        chunk = {"chunk_s": 10.0, "chunk_readings": 200_000} | more
        archive = Archive(self.log, objects or self.objects, self.catalog, progress or Progress(STAGE), self.clock, **chunk)
        if hurried:
            archive.hurry()
        return archive

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with transaction(self.catalog) as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]

    async def ledger(self) -> dict[tuple[str, str], int]:
        """Counts by gateway and measure."""
        found = await self.rows("SELECT gateway_id, measure, sum(count) FROM ledger GROUP BY 1, 2")
        return {(gateway, measure): int(count) for gateway, measure, count in found}

    async def manifest_rows(self) -> list[ManifestRow]:
        return (await self.manifest.page(Wanted(), 1000, ""))[0]

    def content(self) -> dict[str, bytes]:
        """Everything that was put, by path."""
        files = [
            file for part in ("water_quality_data", "manifest") for file in (self.folder / part).rglob("*") if file.is_file()
        ]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}

    def data(self) -> dict[str, Unpacked]:
        """All objects, by path."""
        return {
            path: join(list(pieces(path, content)))
            for path, content in self.content().items()
            if path.startswith("water_quality_data/")
        }

    def places(self) -> Counter[tuple[str, int, int, int]]:
        """How often each place in the log is in the objects."""
        return Counter(
            (*found.places.partitions[of], offset, index)
            for found in self.data().values()
            for of, offset, index in zip(
                found.places.of.tolist(), found.places.offset.tolist(), found.places.index.tolist(), strict=True
            )
        )


@dataclass(slots=True)
class Archiving:
    """A log of screened records. `put_count`: readings put so far; `sources`: the last source offset of each partition."""

    log: PostgresLog
    clock: ManualClock
    sources: dict[Partition, int] = field(default_factory=dict)
    put_places: list[tuple[str, int, int, int]] = field(default_factory=list)

    async def put(
        self, readings: Readings, partition: Partition = SCREENED_0, gateway: str = "g1", region: str = "north", **more: Any
    ) -> int:
        """One screened record, whose source offsets follow those before; its offset."""
        previous = more.get("previous", self.sources.get(partition, -1))
        source = more.get("source", previous + 1)
        self.sources[partition] = source
        flagged = readings if readings.flags is not None else flag(readings)
        value = more.get("value", write_screened(Screened(gateway, 0, region, START_US, flagged, source, previous)))
        headers = write_source(source, previous)
        if len(readings):
            headers |= write_stamp(Stamp(gateway, more.get("hour_us", HOUR_US), more.get("count", len(readings))))
        offset = await (await self.log.append(partition, Record(value, more.get("headers", headers))))
        if "value" not in more and "count" not in more:
            self.put_places += [(*partition, offset, index) for index in range(len(readings))]
        return offset

    async def put_many(self, batches: int = 20, size: int = 100, regions: Sequence[str] = ("north", "south")) -> None:
        """Batches of two days around the start of 2026, of some regions, in all partitions of both topics."""
        for number in range(batches):
            partition = Partition(TOPICS[number % 2], number % 4)
            readings = some_readings(size, sensors=7, seed=number, start=START_US - (number % 3) * 86_400_000_000, period_s=7200)
            await self.put(readings, partition, gateway=f"g{number % 3}", region=regions[number % len(regions)])

    async def passed(self, place: Place) -> bool:
        """Whether everything that was put is archived there."""
        async with transaction(place.catalog) as connection:
            found = await positions.read(connection, STAGE, self.log.log_id, TOPICS)
        had = {partition: position.source_offset for (_, partition), position in found.items()}
        return all(had.get(partition, -1) == source for partition, source in self.sources.items())

    async def archive_all(self, place: Place, archive: Archive | None = None) -> None:
        """A worker runs until everything that was put is archived, and is then cancelled."""
        async with working(archive or place.archive()):
            await until(lambda: self.passed(place))


class FailingObjects:
    """Objects whose put fails once: the `fail_at`-th, before or after it had its effect."""

    def __init__(self, inner: Objects, fail_at: int, after: bool = False) -> None:
        self._inner = inner
        self._left = fail_at
        self._after = after

    async def put(self, path: str, content: bytes) -> bool:
        self._left -= 1
        failing = self._left == 0
        if failing and not self._after:
            raise Unavailable("the objects are away: a test says so")
        created = await self._inner.put(path, content)
        if failing:
            raise Unavailable("the objects went away behind the put: a test says so")
        return created

    async def get(self, path: str, limit: int | None = None) -> bytes:
        return await self._inner.get(path, limit)

    def list(self, prefix: str) -> AsyncIterator[str]:
        return self._inner.list(prefix)

    async def delete(self, path: str) -> None:
        await self._inner.delete(path)


@asynccontextmanager
async def a_place(log: PostgresLog, clock: ManualClock, fresh_database: FreshDatabase, folder: Path) -> AsyncIterator[Place]:
    """A new, empty archive of the log."""
    catalog = open_engine(await fresh_database(), 6)
    try:
        await create_catalog_tables(catalog)
        await create_tables(catalog)
        await create_restore_tables(catalog)
        yield Place(log, catalog, folder, DirectoryObjects(folder), clock, Manifest(catalog))
    finally:
        await catalog.dispose()


@asynccontextmanager
async def working(*archives: Archive) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Runs workers beside the block and cancels them at its end. A worker that fails fails the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(archive.run()) for archive in archives]
        yield tasks
        for task in tasks:
            task.cancel()


async def end(task: "asyncio.Task[None]") -> None:
    """Cancels, as a killed process would be, and waits."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until it holds, at most 30 s."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 - what is waited for is a state of a database, not of this process
            await asyncio.sleep(0.02)


def flag(readings: Readings, packed: int = 0x1111_1111) -> Readings:
    return readings.with_flags(np.full(len(readings), packed, np.uint64))
