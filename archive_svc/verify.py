"""Does every object hold what the manifest says, and is there one that the manifest does not know?"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from archive_svc.manifest import Manifest, Wanted, check_wanted
from archive_svc.manifest_record import DATA, MANIFEST, ManifestRow, day_of, described_by, manifest_path, write_manifest_row
from archive_svc.pack import unpack
from archive_svc.put import sha256
from mesh.errors import InvalidArgument, NotFound
from mesh.ports import Objects
from mesh.shards import first_error

AT_ONCE = 4
"""Objects in memory at a time."""
PAGE = 500
_DAY_US = 86_400_000_000


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
        try:
            content = await self._objects.get(row.path)
        except NotFound:
            return "the object is missing"
        except InvalidArgument as error:  # a link in its place, a folder
            return error.message
        return await asyncio.to_thread(compare, row, content) or await _record_problem(self._objects, row)

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


def compare(row: ManifestRow, content: bytes) -> str:
    """How the object differs from its row; empty: not at all. Nothing that has another checksum is read any further. Blocks: run
    it in a thread."""
    if len(content) != row.size_bytes:
        return f"{len(content)} bytes, the manifest says {row.size_bytes}: it was truncated or replaced"
    if (found := sha256(content)) != row.sha256:
        return f"its sha256 is {found}, the manifest says {row.sha256}: it was changed"
    try:
        unpacked = unpack(content)
    except InvalidArgument as error:
        return error.message
    times = unpacked.readings.measured_at_us
    held = replace(
        row,
        reading_count=len(times),
        first_us=int(times.min()),
        last_us=int(times.max()),
        log_id=unpacked.log_id,
        topic=unpacked.places.topic,
        partition=unpacked.places.partition,
    )
    names = ("reading_count", "first_us", "last_us", "log_id", "topic", "partition")
    wrong = [name for name in names if getattr(held, name) != getattr(row, name)]
    if wrong:
        return f"its {wrong[0]} is {str(getattr(held, wrong[0]))[:80]}, the manifest says {getattr(row, wrong[0])}"
    if unpacked.region != row.region:
        return f"its readings are of the region {unpacked.region[:80]!r}, its path says {row.region!r}"
    return ""


async def _record_problem(objects: Objects, row: ManifestRow) -> str:
    path = manifest_path(row)
    try:
        content = await objects.get(path)
    except NotFound:
        return f"its manifest record {path} is missing: it cannot be restored elsewhere"
    except InvalidArgument as error:
        return error.message
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
