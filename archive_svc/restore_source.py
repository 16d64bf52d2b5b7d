"""What does the archive of another deployment hold, and may this deployment take it in?"""

import asyncio
from collections.abc import Sequence

from sqlalchemy import delete, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.day_notes import read_note_path
from archive_svc.manifest import columns_of
from archive_svc.manifest_record import MANIFEST, MOST_RECORD_BYTES, ManifestRow, manifest_path, read_manifest_row
from archive_svc.restore_complete import check_complete
from archive_svc.restore_days import read_days
from archive_svc.restore_tables import FOUND
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, TooLarge
from mesh.ports import Log, Objects
from mesh.shards import Shards, first_error, transaction
from mesh.topics import ACCEPTED, BACKFILL

_AT_ONCE = 8
_PAGE = 200
_READ = 256
_MEND = (
    "restore into a deployment that has nothing yet and to which nobody sends: `wq up --no-fleet --data NEW_DIRECTORY`, with"
    " that archive in its setting `archives`"
)


async def read_manifest(objects: Objects, source: str, catalog: AsyncEngine) -> None:
    """Everything that the manifest of the archive `source` says is in archive.restore_found on return, and nothing else. Raises
    FailedPrecondition: NO_MANIFEST where there is none; UNSAFE_PATH or INVALID_MANIFEST for a record that no deployment of
    ours writes, and for two records of one object, by its path."""
    async with transaction(catalog) as connection:
        await connection.execute(delete(FOUND))
    some: list[str] = []
    is_empty = True
    notes: list[str] = []
    async for path in objects.list(f"{MANIFEST}/"):
        if read_note_path(path) is not None:
            notes.append(path)
        if not path.endswith(".json"):
            continue
        is_empty = False
        some.append(path)
        if len(some) == _PAGE:
            await _enter(await _records(objects, source, some), source, catalog)
            some.clear()
    await _enter(await _records(objects, source, some), source, catalog)
    if is_empty:
        message = f"the archive {source!r} has no manifest: name the directory that holds {MANIFEST}/ and its objects"
        raise FailedPrecondition(message, reason="NO_MANIFEST", metadata={"source": source})
    await read_days(objects, source, catalog, notes)
    await check_complete(objects, source, catalog)


async def check_empty(source: str, log: Log, catalog: AsyncEngine, shards: Shards) -> None:
    """Whether everything that is here came from that archive, by an earlier restore that may not have ended; else raises
    FailedPrecondition (NOT_EMPTY) that says what is here. Call `read_manifest` before. Nobody can keep a gateway from sending
    right afterwards: what it sends is kept, and of one sensor and time the first that is recorded stays."""
    async with transaction(catalog) as connection:
        accepted = int((await connection.execute(text(_ACCEPTED))).scalar_one())
        strange = int((await connection.execute(text(_STRANGE))).scalar_one())
        adopted = bool((await connection.execute(text("SELECT EXISTS (SELECT FROM archive.objects)"))).scalar_one())
    if accepted:
        raise _not_empty(source, f"{accepted} readings were accepted from gateways")
    if strange:
        raise _not_empty(source, f"its archive has {strange} objects that the archive {source!r} does not have")

    async def is_used(shard: int) -> bool:
        async with transaction(shards.engines[shard]) as connection:
            used, has_readings = (await connection.execute(text(_USED))).one()
        return bool(used or (has_readings and not adopted))

    if any([await is_used(shard) for shard in shards.engines]):
        raise _not_empty(source, "readings are recorded in its shards")
    if await _has_readings(log):
        raise _not_empty(source, "its log has readings of gateways")


async def _records(objects: Objects, source: str, paths: Sequence[str]) -> list[ManifestRow]:
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(path: str) -> ManifestRow:
        async with limit:
            return await _record(objects, source, path)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(path)) for path in paths]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return [task.result() for task in tasks]


async def _record(objects: Objects, source: str, path: str) -> ManifestRow:
    try:
        row = read_manifest_row(await objects.get(path, MOST_RECORD_BYTES))
        if manifest_path(row) != path:
            message = f"it describes {row.path} of log {row.log_id}, whose record is at {manifest_path(row)}"
            raise InvalidArgument(message, reason="INVALID_MANIFEST")
    except (InvalidArgument, NotFound, TooLarge, FailedPrecondition) as error:
        reason = error.reason if error.reason == "UNSAFE_PATH" else "INVALID_MANIFEST"
        message = f"the record {path!r} of the archive {source!r} is not believed: {error.message}; nothing was restored"
        raise FailedPrecondition(message, reason=reason, metadata={"source": source, "path": path}) from error
    return row


async def _enter(rows: Sequence[ManifestRow], source: str, catalog: AsyncEngine) -> None:
    if not rows:
        return
    enter = insert(FOUND).on_conflict_do_nothing().returning(FOUND.c.path, FOUND.c.log_id)
    async with transaction(catalog) as connection:
        entered = {tuple(row) for row in await connection.execute(enter, [columns_of(row) for row in rows])}
    for row in rows:
        if (row.path, row.log_id) not in entered:
            problem = f"the archive {source!r} has two records of the object {row.path}, one of them {manifest_path(row)}"
            message = f"{problem}: take away what does not belong to it; nothing was restored"
            raise FailedPrecondition(message, reason="INVALID_MANIFEST", metadata={"source": source, "path": manifest_path(row)})


async def _has_readings(log: Log) -> bool:
    """Whether any record of the lanes has the headers of readings. Before the first one stand only contexts, which are few."""
    for partition, span in (await log.ends((ACCEPTED, BACKFILL))).items():
        offset = span.first
        while offset < span.next:
            records = await log.read(partition, offset, _READ)
            if any("gateway" in stored.record.headers for stored in records):
                return True
            offset = records[-1].offset + 1 if records else span.next
    return False


def _not_empty(source: str, what: str) -> FailedPrecondition:
    message = f"the archive {source!r} of another deployment cannot be restored here: {what}; {_MEND}"
    return FailedPrecondition(message, reason="NOT_EMPTY", metadata={"source": source})


_ACCEPTED = "SELECT coalesce(sum(count), 0) FROM ledger WHERE measure = 'accepted'"

_STRANGE = """
SELECT count(*) FROM archive.objects AS o
WHERE NOT EXISTS (SELECT FROM archive.restore_found AS f WHERE f.path = o.path AND f.sha256 = o.sha256 AND f.log_id = o.log_id)
  AND NOT EXISTS (  -- nor came from there before it was compacted
    SELECT FROM archive.restore_until AS u
    WHERE u.log_id = o.log_id AND u.region = o.region AND u.topic = o.topic AND u.partition = o.partition
      AND u.day_us = o.first_us - (o.first_us % 86400000000 + 86400000000) % 86400000000 AND u.until >= o.last_offset)
  AND NOT EXISTS (SELECT FROM archive.restore_gone AS g WHERE starts_with(o.path, g.stem))
"""

_USED = "SELECT EXISTS (SELECT FROM ledger), EXISTS (SELECT FROM sensor_readings)"
