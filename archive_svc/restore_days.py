"""Which objects of another deployment's archive stand for its days, and is any record of its manifest missing?"""

from collections.abc import Sequence

from sqlalchemy import delete, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from archive_svc.day_notes import MOST_NOTE_BYTES, DayNote, done_path, read_note, read_note_path, stem_of
from archive_svc.manifest_record import ManifestRow, day_of
from archive_svc.restore_tables import FOUND_DAYS, FOUND_GONE, FOUND_UNTIL
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, TooLarge
from mesh.ports import Objects
from mesh.shards import transaction


async def read_days(objects: Objects, source: str, catalog: AsyncEngine, notes: Sequence[str]) -> None:
    """What these notes of compacted days say holds for archive.restore_found on return: objects that others stand for are not in
    it, nor are those of an attempt. Raises FailedPrecondition (INVALID_MANIFEST) for a note that is none of ours, and for a
    compacted day whose note, or any of whose records, is missing."""
    async with transaction(catalog) as connection:
        for table in (FOUND_DAYS, FOUND_UNTIL, FOUND_GONE):
            await connection.execute(delete(table))
    for path in notes:
        found = read_note_path(path)
        assert found is not None
        log_id, stem, is_done = found
        if not is_done:
            async with transaction(catalog) as connection:
                attempt = {"stem": stem, "log_id": log_id, "is_done": False, "object_count": 0, "reading_count": 0, "note": ""}
                await connection.execute(postgresql.insert(FOUND_DAYS).values(attempt).on_conflict_do_nothing())
            continue
        try:
            content = await objects.get(path, MOST_NOTE_BYTES)
            note = read_note(path, content)
        except NotFound:  # swept just now: a later one stands for it
            continue
        except (InvalidArgument, TooLarge, FailedPrecondition) as error:
            raise incomplete(source, path, error.message) from error
        async with transaction(catalog) as connection:
            await _enter(connection, note, content.decode())
    async with transaction(catalog) as connection:
        for statement in (_DROP_CHUNKS, _DROP_GONE, _DROP_ATTEMPTS):
            await connection.execute(text(statement))
        missing = (await connection.execute(text(_INCOMPLETE))).first()
        without = (await connection.execute(text(_WITHOUT_NOTE))).first()
    if missing is not None:
        problem = f"the manifest has {missing.found} of {missing.object_count} objects of this compacted day"
        raise incomplete(source, missing.stem, problem)
    if without is not None:
        raise incomplete(source, without.path, "the note of its compacted day is missing")


async def found_note(catalog: AsyncEngine, row: ManifestRow) -> tuple[str, bytes]:
    """Path and content of the note of the compacted day that this object of restore_found belongs to."""
    stem = stem_of(row.path)
    async with transaction(catalog) as connection:
        note = (await connection.execute(select(FOUND_DAYS.c.note).where(FOUND_DAYS.c.stem == stem))).scalar_one()
    return done_path(row.log_id, stem), note.encode()


async def _enter(connection: AsyncConnection, note: DayNote, content: str) -> None:
    day = {"stem": note.stem, "log_id": note.log_id, "is_done": True, "note": content}
    day |= {"object_count": note.object_count, "reading_count": note.reading_count}
    enter = postgresql.insert(FOUND_DAYS).values(day)
    await connection.execute(enter.on_conflict_do_update(index_elements=["stem"], set_=day))
    day_us = day_of(f"{note.stem}-0000.parquet")
    place = {"log_id": note.log_id, "region": note.region, "day_us": day_us}
    if note.until:
        rows = [{**place, "topic": topic, "partition": number, "until": offset} for (topic, number), offset in note.until.items()]
        until = postgresql.insert(FOUND_UNTIL)
        greatest = {"until": text("greatest(restore_until.until, excluded.until)")}
        keys = [column.name for column in FOUND_UNTIL.primary_key]
        await connection.execute(until.on_conflict_do_update(index_elements=keys, set_=greatest), rows)
    if note.replaces:
        gone = postgresql.insert(FOUND_GONE).on_conflict_do_nothing()
        await connection.execute(gone, [{"stem": stem} for stem in note.replaces])


def incomplete(source: str, path: str, problem: str) -> FailedPrecondition:
    """The error for a manifest of which something is missing or damaged at `path`."""
    mend = "bring it back from a copy of the archive, or take its objects away to restore without them"
    message = f"the manifest of the archive {source!r} is not complete: {path!r}: {problem}; {mend}; nothing was restored"
    return FailedPrecondition(message, reason="INVALID_MANIFEST", metadata={"source": source, "path": path})


_STEM = "substring(f.path FROM '^(.*/day-.{1,8}-[0-9]{16}-[0-9a-f]{8})-')"
_DAY = "f.first_us - (f.first_us % 86400000000 + 86400000000) % 86400000000"

_DROP_CHUNKS = f"""
DELETE FROM archive.restore_found AS f USING archive.restore_until AS u
WHERE f.topic <> 'compacted' AND u.log_id = f.log_id AND u.region = f.region AND u.day_us = {_DAY}
  AND u.topic = f.topic AND u.partition = f.partition AND f.last_offset <= u.until
"""

_DROP_GONE = f"""
DELETE FROM archive.restore_found AS f USING archive.restore_gone AS g WHERE f.topic = 'compacted' AND g.stem = {_STEM}
"""

_DROP_ATTEMPTS = f"""
DELETE FROM archive.restore_found AS f USING archive.restore_days AS d
WHERE f.topic = 'compacted' AND NOT d.is_done AND d.stem = {_STEM}
"""

_INCOMPLETE = f"""
SELECT * FROM (
    SELECT d.stem, d.object_count, d.reading_count, count(f.path) AS found, coalesce(sum(f.reading_count), 0) AS readings
    FROM archive.restore_days AS d LEFT JOIN archive.restore_found AS f ON f.topic = 'compacted' AND {_STEM} = d.stem
    WHERE d.is_done AND NOT EXISTS (SELECT FROM archive.restore_gone AS g WHERE g.stem = d.stem)
    GROUP BY d.stem) AS days
WHERE found <> object_count OR readings <> reading_count ORDER BY stem LIMIT 1
"""

_WITHOUT_NOTE = f"""
SELECT f.path FROM archive.restore_found AS f
WHERE f.topic = 'compacted' AND NOT EXISTS (SELECT FROM archive.restore_days AS d WHERE d.stem = {_STEM}) ORDER BY 1 LIMIT 1
"""
