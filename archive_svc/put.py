"""How do planned objects become durable, a few at a time, however often it is tried?"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np

from archive_svc.chunk import Chunk, Planned
from archive_svc.contents import pieces, write_object
from archive_svc.manifest_record import MOST_BYTES, ManifestRow, manifest_path, write_manifest_row
from archive_svc.unpacked import Unpacked, join
from mesh.errors import InvalidArgument, ObjectConflict
from mesh.ports import Objects
from mesh.shards import first_error

AT_ONCE = 2
"""Objects in work: as many threads as the archive may keep busy beside the stages that somebody waits for."""
_T = TypeVar("_T")


async def put_objects(objects: Objects, chunk: Chunk, planned: Iterator[Planned]) -> list[ManifestRow]:
    """Every planned object is durable on return, and after them the manifest record of each. What an earlier attempt has put is
    left as it is. Raises ObjectConflict where an object holds other readings: a path is never used twice."""
    rows: list[ManifestRow] = []

    async def put(packed: tuple[ManifestRow, bytes]) -> None:
        rows.append(await _put(objects, *packed))

    await each(_pack(chunk, planned), put)
    rows.sort(key=lambda row: row.path)

    async def put_record(row: ManifestRow) -> None:
        await objects.put(manifest_path(row), write_manifest_row(row))

    await each(iter(rows), put_record)
    return rows


async def each(things: Iterator[_T], work: Callable[[_T], Awaitable[None]]) -> None:
    """Does the work for each thing, two at a time, and takes a thing from the iterator (in a thread) only when its turn is there:
    so one is made while another is put. The first error stops it and is raised as it is."""
    turn = asyncio.Lock()
    end = object()

    async def one_after_another() -> None:
        while True:
            async with turn:
                thing = await asyncio.to_thread(next, things, end)
            if thing is end:
                return
            await work(thing)  # type: ignore[arg-type]

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(one_after_another())
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors


def _pack(chunk: Chunk, planned: Iterator[Planned]) -> Iterator[tuple[ManifestRow, bytes]]:
    for one in planned:
        content = write_object(one.path, one.found)
        times = one.found.readings.measured_at_us
        row = ManifestRow(
            path=one.path,
            reading_count=len(one.found),
            size_bytes=len(content),
            sha256=sha256(content),
            first_us=int(times.min()),
            last_us=int(times.max()),
            log_id=chunk.log_id,
            topic=chunk.partition.topic,
            partition=chunk.partition.number,
            first_offset=chunk.first_offset,
            last_offset=chunk.new.offset,
            stored_us=chunk.cut_us,
        )
        yield row, content


async def _put(objects: Objects, row: ManifestRow, content: bytes) -> ManifestRow:
    try:
        await objects.put(row.path, content)
        return row
    except ObjectConflict:
        # Packed by another pyarrow before a crash: the same readings in other bytes.
        there = await objects.get(row.path, MOST_BYTES)
        if not await asyncio.to_thread(_same_readings, row.path, there, content):
            raise
        return replace(row, size_bytes=len(there), sha256=sha256(there))


def sha256(content: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _same_readings(path: str, left: bytes, right: bytes) -> bool:
    try:
        return _columns(join(list(pieces(path, left)))) == _columns(join(list(pieces(path, right))))
    except InvalidArgument:
        return False


def _columns(found: Unpacked) -> tuple[object, ...]:
    readings, places = found.readings, found.places
    values = np.where(np.isnan(readings.values), np.float32(np.nan), readings.values)
    assert readings.flags is not None
    arrays = (readings.sensor_id, readings.measured_at_us, values, readings.flags, places.of, places.offset, places.index)
    return (found.region, found.log_id, places.partitions, *(array.tobytes() for array in arrays))
