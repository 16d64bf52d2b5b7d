"""The arrow `restore`: archived readings from objects back into the Log (topic `restored`), from where they are recorded."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import structlog
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.contents import pieces
from archive_svc.first_of_each import repeated
from archive_svc.manifest import Wanted, check_wanted, columns_of
from archive_svc.manifest_record import ManifestRow, manifest_path, write_manifest_row
from archive_svc.restore_days import found_note
from archive_svc.restore_losers import LogPlace, Losers
from archive_svc.restore_plan import Plan
from archive_svc.restore_source import check_empty, read_manifest
from archive_svc.tables import COMPACTED, OBJECTS
from archive_svc.unpacked import Unpacked
from archive_svc.verify import compare
from mesh.codec.packed import MAX_READING_BYTES
from mesh.codec.restored_records import RestoredReadings, write_restored
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, ObjectConflict, TooLarge
from mesh.ports import Clock, Log, Objects, Partition, Record
from mesh.shards import AnyShards, transaction
from mesh.tokens import write_position
from mesh.topics import RESTORED
from water.readings import Readings

MOST_RECORD_BYTES = 512 * 1024
MOST_RECORD_READINGS = min(10_000, (MOST_RECORD_BYTES - 2048) // (MAX_READING_BYTES + 8))
MOST_PARTITIONS = 8
WINDOW_RECORDS = 16
TOLD_WITHIN_S = 30.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Restored:
    """How far a restore is. `total_count`: readings to put back as far as is known: those that are left out go from it when
    their object is read. `unproven_count`: those put back from objects of which the archive does not tell yet all that lost.
    `positions`: with the last progress the places in the Log behind which everything is."""

    restored_count: int
    total_count: int
    unproven_count: int = 0
    positions: tuple[str, ...] = ()


@dataclass(slots=True)
class _Putting:
    """Appends on their way, oldest first, and the last offset of each partition."""

    waiting: list["tuple[Partition, asyncio.Future[int]]"] = field(default_factory=list)
    last: dict[Partition, int] = field(default_factory=dict)

    async def settle(self, most: int) -> None:
        """At most so many are on their way on return. Raises Unavailable when one could not be made durable."""
        while len(self.waiting) > most:
            partition, durable = self.waiting.pop(0)
            self.last[partition] = await durable


class Restore:
    """Reads objects, ours or those of a configured archive (`sources`, by name), compares each with the manifest before it is
    used, leaves out the readings that lost (law 5), and appends the others to `restored`. Memory holds one object and a few
    records.

    Readings of a sensor always go to the same partition, in the order of the plan: so of one key the first that was recorded is
    the first to come back. Another deployment's objects are copied, with their manifest records, and their rows adopted (they
    keep their log's identity): from then on they are ours to list, verify and restore.

    An archive tells which readings lost only when they are recorded, seconds after its objects or, with a shard away, later. So
    a restore waits up to `told_within_s` until that is told of every object that it has. Objects of which it is not told then
    (the source ended without it, or is in trouble) are put back all the same, since they may be the last there is of them, but
    after all others, and counted as unproven: where two of them have one key with different values, both recorded after what is
    told, and in different partitions, the one that lost may come back.
    """

    def __init__(
        self,
        log: Log,
        own: Objects,
        sources: Mapping[str, Objects],
        catalog: AsyncEngine,
        shards: AnyShards,
        clock: Clock,
        told_within_s: float = TOLD_WITHIN_S,
    ) -> None:
        self._log = log
        self._own = own
        self._sources = sources
        self._catalog = catalog
        self._shards = shards
        self._clock = clock
        self._told_within_us = round(told_within_s * 1_000_000)
        self._losers = Losers(catalog)
        self._partitions = min(log.partition_count, MOST_PARTITIONS)

    async def run(self, wanted: Wanted, source: str) -> AsyncIterator[Restored]:
        """Progress at the start, after each object and at the end; what it tells of is durable in the Log. `source`: a configured
        archive; empty: our own. May be left at any moment, and repeating it is safe. Close the iterator when leaving it.

        Raises InvalidArgument for a wrong filter, NotFound (UNKNOWN_ARCHIVE), and FailedPrecondition: RESTORE_RUNNING,
        NO_MANIFEST, UNSAFE_PATH or INVALID_MANIFEST, NOT_EMPTY, and OBJECT_DAMAGED for an object that is not what the manifest
        says: of that one nothing was put back, of those before it everything was."""
        check_wanted(wanted)
        objects = self._objects(source)
        async with _alone(self._catalog):
            if source:
                await read_manifest(objects, source, self._catalog)
                await check_empty(source, self._log, self._catalog, self._shards.now)
            plan = Plan(self._catalog, found=bool(source))
            total, ends = await plan.make(wanted), await plan.ends()
            yield Restored(0, total)
            known = await self._known(objects, source, ends)
            await plan.put_last(known)
            putting, count, unproven = _Putting(), 0, 0
            async for row in plan.rows():
                put, undecided = await self._restore(row, objects, wanted, bool(source), putting)
                count, total = count + put, total - row.reading_count + put
                is_told = row.topic == COMPACTED or row.last_offset <= known.get((row.log_id, row.topic, row.partition), -1)
                unproven += undecided if is_told else put
                yield Restored(count, total, unproven)
            if unproven:
                _log.warning("restored before it was told what lost", source=source, unproven=unproven, restored=count)
            places = sorted(putting.last.items())
            positions = [write_position(self._log.log_id, *partition, offset) for partition, offset in places]
            yield Restored(count, total, unproven, tuple(positions))

    async def _known(self, objects: Objects, source: str, wanted: Mapping[LogPlace, int]) -> Mapping[LogPlace, int]:
        """Up to which offsets all losers are known: up to those wanted, unless that was not told in time."""
        deadline_us = self._clock.now_us() + self._told_within_us
        while True:
            known = await self._losers.read({log_id for log_id, _, _ in wanted}, objects, self._own if source else None)
            is_told = all(known.get(place, -1) >= offset for place, offset in wanted.items())
            if is_told or self._clock.now_us() >= deadline_us:
                return known
            await self._clock.sleep(1.0)

    def _objects(self, source: str) -> Objects:
        if not source:
            return self._own
        if source not in self._sources:
            listed = ", ".join(sorted(self._sources)) or "none"
            message = f"no archive {source[:80]!r} is configured here; configured are: {listed} (setting `archives`)"
            raise NotFound(message, reason="UNKNOWN_ARCHIVE", metadata={"source": source[:80]})
        return self._sources[source]

    async def _restore(
        self, row: ManifestRow, objects: Objects, wanted: Wanted, adopt: bool, putting: _Putting
    ) -> tuple[int, int]:
        """The wanted readings of the object are durable in the Log on return; how many, and how many of a compacted day share
        their key with others."""
        content = await _get(row, objects)
        if problem := await asyncio.to_thread(compare, row, content):
            raise _damaged(row, problem)
        if adopt:
            await self._adopt(row, content)
        count, undecided, found = 0, 0, pieces(row.path, content)
        while (piece := await asyncio.to_thread(next, found, None)) is not None:
            readings = await self._wanted(row, piece, wanted)
            count += len(readings)
            undecided += len(repeated(readings)) if row.topic == COMPACTED else 0
            await self._append(_records(row.path, piece.region, readings, self._partitions), putting)
        await putting.settle(0)
        return count, undecided

    async def _wanted(self, row: ManifestRow, piece: Unpacked, wanted: Wanted) -> Readings:
        """Those that did not lose, of the time that is asked for."""
        keep = await self._losers.are_not(row, piece)
        times = piece.readings.measured_at_us
        if wanted.start_us is not None:
            keep &= times >= wanted.start_us
        if wanted.end_us is not None:
            keep &= times < wanted.end_us
        return await asyncio.to_thread(piece.readings.take, keep)

    async def _append(self, records: Iterator[tuple[int, Record]], putting: _Putting) -> None:
        while (made := await asyncio.to_thread(next, records, None)) is not None:
            number, record = made
            partition = Partition(RESTORED, number)
            await putting.settle(WINDOW_RECORDS - 1)
            putting.waiting.append((partition, await self._log.append(partition, record)))

    async def _adopt(self, row: ManifestRow, content: bytes) -> None:
        """The object and its record are ours, and in our manifest, on return."""
        try:
            await self._own.put(row.path, content)
            await self._own.put(manifest_path(row), write_manifest_row(row))
            if row.topic == COMPACTED:
                await self._own.put(*await found_note(self._catalog, row))
        except ObjectConflict as error:
            raise _damaged(row, f"another object of this name is in our own archive ({error.message})") from error
        async with transaction(self._catalog) as connection:
            await connection.execute(insert(OBJECTS).values(columns_of(row)).on_conflict_do_nothing())


@asynccontextmanager
async def _alone(catalog: AsyncEngine) -> AsyncIterator[None]:
    """No other restore into this deployment runs inside the block."""
    async with transaction(catalog) as connection:
        if not (await connection.execute(text(_LOCK))).scalar_one():
            message = "another restore is running here: wait until it has ended, or cancel it"
            raise FailedPrecondition(message, reason="RESTORE_RUNNING")
        yield


async def _get(row: ManifestRow, objects: Objects) -> bytes:
    try:
        return await objects.get(row.path, row.size_bytes)
    except NotFound:
        raise _damaged(row, "it is missing") from None
    except (InvalidArgument, TooLarge, FailedPrecondition) as error:  # a link in its place, a folder; or the engine knows
        raise _damaged(row, error.message) from error


def _records(path: str, region: str, readings: Readings, partitions: int) -> Iterator[tuple[int, Record]]:
    """Partition and record of each piece. Blocks: run each step in a thread."""
    number = readings.sensor_id % partitions
    for partition in range(partitions):
        mine = np.flatnonzero(number == partition)
        for start in range(0, len(mine), MOST_RECORD_READINGS):
            piece = readings.take(mine[start : start + MOST_RECORD_READINGS])
            yield partition, Record(write_restored(RestoredReadings(region, path, piece)))


def _damaged(row: ManifestRow, problem: str) -> FailedPrecondition:
    message = f"object {row.path!r} is not used: {problem}; bring it back from a copy, then repeat the restore"
    return FailedPrecondition(message, reason="OBJECT_DAMAGED", metadata={"path": row.path})


# One key for this deployment's catalog database.
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('archive.restore'))"
