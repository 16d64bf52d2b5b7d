"""Does every object hold what the manifest says, and is there one that the manifest does not know?"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archive_svc.contents import pieces
from archive_svc.manifest import Manifest, Wanted, check_wanted
from archive_svc.manifest_record import (
    DATA,
    MANIFEST,
    MOST_RECORD_BYTES,
    ManifestRow,
    day_of,
    described_by,
    manifest_path,
    write_manifest_row,
)
from archive_svc.put import sha256
from archive_svc.tables import COMPACTED
from archive_svc.unpacked import Unpacked
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, TooLarge
from mesh.ports import Objects
from mesh.shards import first_error

AT_ONCE = 4
"""Objects in memory at a time."""
PAGE = 500
_DAY_US = 86_400_000_000
_NEVER_US = 2**62


@dataclass(frozen=True, slots=True)
class Damaged:
    """An object and what is wrong with it; of one that no row names only the path is known."""

    path: str
    row: ManifestRow | None
    problem: str


@dataclass(frozen=True, slots=True)
class Checked:
    """How far a check has come, and what it has just found."""

    checked_count: int
    total_count: int
    damaged: Damaged | None = None


class Verify:
    """Reads our own objects again, those of other archives that were restored here among them: a restore copies them."""

    def __init__(self, manifest: Manifest, objects: Objects) -> None:
        self._manifest = manifest
        self._objects = objects

    async def run(self, wanted: Wanted) -> AsyncGenerator[Checked]:
        """Every wanted row of the manifest by path, and then every object and manifest record of our own that no row names, apart
        from those that are being archived now. Progress comes after every few objects, damage at once; the last is always
        there. Holds four objects in memory at most. Raises InvalidArgument for a wrong filter, Unavailable when the database or
        the objects are away. May be left at any moment."""
        check_wanted(wanted)
        total = await self._manifest.count(wanted)
        checked, after = 0, ""
        while rows := await self._manifest.rows(wanted, after, PAGE):
            for start in range(0, len(rows), AT_ONCE):
                some = rows[start : start + AT_ONCE]
                found = await self._check(some)
                checked += len(some)
                total = max(total, checked)  # some were archived meanwhile
                for damaged in found:
                    yield Checked(checked, total, damaged)
                if not found:
                    yield Checked(checked, total)
            after = rows[-1].path
        async with aclosing(self._strange(wanted)) as strange:
            async for damaged in strange:
                yield Checked(checked, total, damaged)
        yield Checked(checked, total)

    async def _check(self, rows: Sequence[ManifestRow]) -> list[Damaged]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._problem(row)) for row in rows]
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors
        results = zip(rows, (task.result() for task in tasks), strict=True)
        return [Damaged(row.path, row, problem) for row, problem in results if problem]

    async def _problem(self, row: ManifestRow) -> str:
        return await object_problem(self._objects, row) or await record_problem(self._objects, row)

    async def _strange(self, wanted: Wanted) -> AsyncGenerator[Damaged]:
        """Objects and manifest records of our own that no row names."""
        for prefix, kind in ((f"{DATA}/", "object"), (f"{MANIFEST}/", "manifest record")):
            some: list[str] = []
            async for path in self._objects.list(prefix):
                if not _within(path, wanted):  # nor what else `manifest` holds: losers, which their names prove
                    continue
                some.append(path)
                if len(some) == PAGE:
                    for unknown in await self._manifest.unknown(some):
                        yield Damaged(unknown, None, f"the manifest does not know this {kind}")
                    some.clear()
            for unknown in await self._manifest.unknown(some):
                yield Damaged(unknown, None, f"the manifest does not know this {kind}")


async def object_problem(objects: Objects, row: ManifestRow) -> str:
    """What is wrong with the object of a row; empty: nothing. Raises Unavailable when the objects are away."""
    try:
        content = await objects.get(row.path, row.size_bytes)
    except NotFound:
        return "the object is missing"
    except TooLarge as error:
        return f"{error.message}: it was replaced"
    except (InvalidArgument, FailedPrecondition) as error:  # a link in its place, a folder; damage that the engine found
        return error.message
    return await asyncio.to_thread(compare, row, content)


def compare(row: ManifestRow, content: bytes) -> str:
    """How the object differs from its row; empty: not at all. Nothing that has another checksum is read any further. Blocks: run
    it in a thread."""
    if len(content) != row.size_bytes:
        return f"{len(content)} bytes, the manifest says {row.size_bytes}: it was truncated or replaced"
    if (found := sha256(content)) != row.sha256:
        return f"its sha256 is {found}, the manifest says {row.sha256}: it was changed"
    held = replace(row, reading_count=0, first_us=_NEVER_US, last_us=-_NEVER_US)
    try:
        for piece in pieces(row.path, content):
            if problem := _strange(row, piece):
                return problem
            held = _and(held, piece.readings.measured_at_us)
    except InvalidArgument as error:
        return error.message
    wrong = [name for name in ("reading_count", "first_us", "last_us") if getattr(held, name) != getattr(row, name)]
    return f"its {wrong[0]} is {getattr(held, wrong[0])}, the manifest says {getattr(row, wrong[0])}" if wrong else ""


def _strange(row: ManifestRow, piece: Unpacked) -> str:
    """How a piece says of itself that it belongs elsewhere."""
    if piece.region != row.region:
        return f"its readings are of the region {piece.region[:80]!r}, its path says {row.region!r}"
    if piece.log_id != row.log_id:
        return f"its log_id is {piece.log_id[:80]!r}, the manifest says {row.log_id}"
    if row.topic == COMPACTED:
        return ""
    if piece.places.partitions != ((row.topic, row.partition),):
        found = ", ".join(f"{topic[:80]}/{number}" for topic, number in piece.places.partitions)
        return f"its partition is {found}, the manifest says {row.topic}/{row.partition}"
    return ""


def _and(held: ManifestRow, times: NDArray[np.int64]) -> ManifestRow:
    first_us, last_us = min(held.first_us, int(times.min())), max(held.last_us, int(times.max()))
    return replace(held, reading_count=held.reading_count + len(times), first_us=first_us, last_us=last_us)


async def record_problem(objects: Objects, row: ManifestRow) -> str:
    """What is wrong with the manifest record of a row; empty: nothing."""
    path = manifest_path(row)
    try:
        content = await objects.get(path, MOST_RECORD_BYTES)
    except NotFound:
        return f"its manifest record {path} is missing: it cannot be restored elsewhere"
    except (InvalidArgument, FailedPrecondition, TooLarge) as error:
        return f"its manifest record {path}: {error.message}"
    return "" if content == write_manifest_row(row) else f"its manifest record {path} does not say what the manifest says"


def _within(path: str, wanted: Wanted) -> bool:
    """Whether an object or manifest record of this path may belong to what is wanted. One that names no day may."""
    described, _ = described_by(path)
    if not described.startswith(f"{DATA}/"):
        return False
    region = described.split("/")[1]
    if wanted.regions and region not in wanted.regions:
        return False
    begin_us = day_of(described)
    if begin_us is None:
        return True
    end_us = begin_us + _DAY_US
    return (wanted.start_us is None or end_us > wanted.start_us) and (wanted.end_us is None or begin_us < wanted.end_us)
