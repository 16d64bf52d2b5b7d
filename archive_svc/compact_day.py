"""How are all objects of a region and a UTC day put together into one, sorted and without duplicates, and committed?"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from archive_svc.contents import pieces
from archive_svc.day_notes import DayNote, begun_path, done_path, make_stem, stem_of, write_note
from archive_svc.day_objects import DayObject, day_objects
from archive_svc.day_tables import DayTables
from archive_svc.manifest_record import ManifestRow, manifest_path, write_manifest_row
from archive_svc.merge_runs import Runs
from archive_svc.put import each, sha256
from archive_svc.restore_losers import Losers
from archive_svc.tables import COMPACTED
from archive_svc.verify import object_problem
from mesh.errors import FailedPrecondition, Fault, InvalidArgument, NotFound, TooLarge
from mesh.ports import Clock, Objects
from mesh.shards import first_error

AT_ONCE = 8
AT_ONCE_BYTES = 16 * 1024 * 1024
"""Objects that are read at a time, one at least."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Merged:
    """What was read of the parts, and what was put of it."""

    part_count: int = 0
    loser_count: int = 0
    undecided_count: int = 0
    rows: list[ManifestRow] = field(default_factory=list)


class CompactDay:
    """Puts days together. Memory holds some 300 MB at most, whatever the day: it is sorted in files below `scratch` (the system's
    place for such when None), of some 10 bytes a reading."""

    def __init__(
        self, log_id: str, objects: Objects, days: DayTables, losers: Losers, clock: Clock, by_json: bool, scratch: Path | None
    ) -> None:
        self._log_id = log_id
        self._objects = objects
        self._days = days
        self._losers = losers
        self._clock = clock
        self._by_json = by_json
        self._scratch = scratch

    async def run(self, region: str, day_us: int, parts: Sequence[ManifestRow]) -> DayNote:
        """The manifest has the day's new objects in the place of the parts on return: each was read back and held what was put.
        What lost must be known of all parts (`Losers.read`). A kill at any moment leaves the parts, or the new objects, in the
        manifest. Raises FailedPrecondition (OBJECT_DAMAGED) for a part that is not what the manifest says, PositionLost when
        another compaction was first, Unavailable."""
        now_us = self._clock.now_us()
        day = (_EPOCH + timedelta(microseconds=day_us)).date()
        stem = make_stem(region, day, self._log_id, now_us, secrets.token_hex(4))
        await self._days.begin(stem, now_us)
        await self._objects.put(begun_path(self._log_id, stem), b"begun\n")
        merged = _Merged()
        with TemporaryDirectory(prefix="wq-compact-", dir=self._scratch, ignore_cleanup_errors=True) as folder:
            runs = Runs(Path(folder))
            await self._read(parts, runs, merged)
            await each(day_objects(stem, runs.merged(), self._by_json), lambda made: self._put(made, parts, merged))
        note = await self._note(region, day_us, stem, parts, merged, runs.duplicates)
        for row in sorted(merged.rows, key=lambda row: row.path):
            await self._objects.put(manifest_path(row), write_manifest_row(row))
        await self._days.commit(note, day_us, parts, merged.rows, self._clock.now_us())
        await self.tell(note)
        return note

    async def tell(self, note: DayNote) -> None:
        """The note of a day that is committed is put on return. Safe to repeat."""
        await self._objects.put(done_path(note.log_id, note.stem), write_note(note))
        await self._objects.delete(begun_path(note.log_id, note.stem))
        await self._days.set_told(note.stem)

    async def _note(
        self, region: str, day_us: int, stem: str, parts: Sequence[ManifestRow], merged: _Merged, duplicates: int
    ) -> DayNote:
        """Raises Fault unless every reading of the parts is accounted for."""
        until: dict[tuple[str, int], int] = {}
        replaced = await self._days.notes(region, day_us)
        for earlier in replaced:
            until |= {place: max(offset, until.get(place, -1)) for place, offset in earlier.until.items()}
        for part in parts:
            if part.topic != COMPACTED:
                place = (part.topic, part.partition)
                until[place] = max(part.last_offset, until.get(place, -1))
        kept = sum(row.reading_count for row in merged.rows)
        if merged.part_count != kept + duplicates + merged.loser_count:
            counts = f"{kept} kept, {duplicates} duplicates, {merged.loser_count} that lost"
            raise Fault(f"the day of {stem}: its objects have {merged.part_count} readings, but {counts}")
        stems = {earlier.stem for earlier in replaced} | {stem_of(part.path) for part in parts if part.topic == COMPACTED}
        return DayNote(
            log_id=self._log_id,
            stem=stem,
            until=until,
            replaces=tuple(sorted(stems)),
            object_count=len(merged.rows),
            part_count=merged.part_count,
            reading_count=kept,
            duplicate_count=duplicates,
            loser_count=merged.loser_count,
            undecided_count=merged.undecided_count,
        )

    async def _read(self, parts: Sequence[ManifestRow], runs: Runs, merged: _Merged) -> None:
        async for row, content in self._contents(parts):
            count, found = 0, pieces(row.path, content)
            while (piece := await asyncio.to_thread(next, found, None)) is not None:
                keep = await self._losers.are_not(row, piece)
                count += len(piece)
                merged.loser_count += len(piece) - int(keep.sum())
                await asyncio.to_thread(runs.add, piece if keep.all() else piece.take(keep))
            if count != row.reading_count:
                raise damaged(row, f"it has {count} readings, the manifest says {row.reading_count}")
            merged.part_count += count

    async def _contents(self, parts: Sequence[ManifestRow]) -> AsyncIterator[tuple[ManifestRow, bytes]]:
        """The parts with their bytes, which are what the manifest says, in order."""
        for some in _batches(parts):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._content(row)) for row in some]
            except BaseExceptionGroup as errors:
                raise first_error(errors) from errors
            for row, task in zip(some, tasks, strict=True):
                yield row, task.result()

    async def _content(self, row: ManifestRow) -> bytes:
        try:
            content = await self._objects.get(row.path, row.size_bytes)
        except NotFound:
            raise damaged(row, "it is missing") from None
        except (InvalidArgument, TooLarge, FailedPrecondition) as error:
            raise damaged(row, error.message) from error
        if (found := await asyncio.to_thread(sha256, content)) != row.sha256:
            raise damaged(row, f"its sha256 is {found}, the manifest says {row.sha256}")
        return content

    async def _put(self, made: DayObject, parts: Sequence[ManifestRow], merged: _Merged) -> None:
        """The object is durable on return, and holds what was put."""
        row = ManifestRow(
            path=made.path,
            reading_count=made.reading_count,
            size_bytes=len(made.content),
            sha256=await asyncio.to_thread(sha256, made.content),
            first_us=made.first_us,
            last_us=made.last_us,
            log_id=self._log_id,
            topic=COMPACTED,
            partition=0,
            first_offset=0,
            last_offset=0,
            stored_us=max(part.stored_us for part in parts),
        )
        await self._objects.put(row.path, made.content)
        if problem := await object_problem(self._objects, row):
            raise damaged(row, f"it was put just now, and {problem}")
        merged.rows.append(row)
        merged.undecided_count += made.undecided_count


def damaged(row: ManifestRow, problem: str) -> FailedPrecondition:
    """The error for an object that is not what the manifest says."""
    message = f"object {row.path!r} is damaged: {problem}; bring it back from a copy"
    return FailedPrecondition(message, reason="OBJECT_DAMAGED", metadata={"path": row.path})


def _batches(parts: Sequence[ManifestRow]) -> Iterator[list[ManifestRow]]:
    some: list[ManifestRow] = []
    for row in parts:
        if some and (len(some) == AT_ONCE or sum(one.size_bytes for one in some) + row.size_bytes > AT_ONCE_BYTES):
            yield some
            some = []
        some.append(row)
    if some:
        yield some
