"""Is any record of the manifest of another deployment's archive missing? Its objects tell."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.day_notes import stem_of
from archive_svc.manifest_record import DATA, day_of
from archive_svc.restore_days import incomplete
from mesh.codec.verified_days import MOST_BYTES, is_verified, read_verified, verified_folder
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, TooLarge
from mesh.ports import Objects
from mesh.shards import transaction

LogOf = tuple[str, str, int]
"""A log by the begin of its identity, a topic and the number of a partition."""
_PAGE = 500
_ASKED = ("paths", "stems", "logs", "regions", "days", "topics", "partitions", "firsts")
# An object of a chunk: region, begin of the log's identity, topic, partition, first offset.
_CHUNK = re.compile(
    rf"{DATA}/([a-z0-9_-]+)/\d+/\d+/\d+/(.{{1,8}})-([a-z_]+)-(\d+)-(\d{{20}})(?:-s-?\d+(?:-\d+)?)?\.(?:parquet|json\.gz)",
    re.ASCII,
)


async def check_complete(objects: Objects, source: str, catalog: AsyncEngine) -> None:
    """Raises FailedPrecondition (INVALID_MANIFEST) when the archive has an object of ours that its manifest should name and does
    not: a record was lost. Objects that were just being put when the archive ended, or are now, are no loss."""
    reached = await _reached(objects, catalog)
    some: list[str] = []
    async for path in objects.list(f"{DATA}/"):
        some.append(path)
        if len(some) == _PAGE:
            await _check(source, catalog, some, reached)
            some.clear()
    await _check(source, catalog, some, reached)


async def _reached(objects: Objects, catalog: AsyncEngine) -> dict[LogOf, int]:
    """Up to which offset the archive was finished for sure, by the begin of the log's identity, topic and partition."""
    async with transaction(catalog) as connection:
        rows = (await connection.execute(text(_REACHED))).all()
        log_ids = (await connection.execute(text(_LOGS))).scalars().all()
    reached = {(log_id, topic, partition): offset for log_id, topic, partition, offset in rows}
    for log_id in log_ids:
        async for path in objects.list(verified_folder(log_id)):
            with suppress(InvalidArgument, NotFound, TooLarge, FailedPrecondition):
                if is_verified(path):
                    word = read_verified(path, await objects.get(path, MOST_BYTES))
                    for (topic, partition), offset in word.until.items():
                        place = (log_id[:8], topic, partition)
                        reached[place] = max(offset, reached.get(place, -1))
    return reached


async def _check(source: str, catalog: AsyncEngine, paths: Sequence[str], reached: Mapping[LogOf, int]) -> None:
    asked: dict[str, list[object]] = {
        name: [] for name in ("paths", "stems", "logs", "regions", "days", "topics", "partitions", "firsts")
    }
    for path in paths:
        chunk, stem = _CHUNK.fullmatch(path), stem_of(path)
        if stem:
            values: tuple[object, ...] = (path, stem, "", "", 0, "", 0, 0)
        elif chunk and int(chunk[5]) <= reached.get((chunk[2], chunk[3], int(chunk[4])), -1):
            values = (path, "", chunk[2], chunk[1], day_of(path), chunk[3], int(chunk[4]), int(chunk[5]))
        else:  # not one of ours, or behind everything that is known to be finished
            continue
        for name, value in zip(asked, values, strict=True):
            asked[name].append(value)
    async with transaction(catalog) as connection:
        lost = (await connection.execute(text(_LOST), asked)).scalars().first()
    if lost is not None:
        raise incomplete(source, lost, "the object is there, but its record in the manifest is missing")


_REACHED = """
SELECT log, topic, partition, max(reached) FROM (
    SELECT left(log_id, 8) AS log, topic, partition, last_offset AS reached FROM archive.restore_found WHERE topic <> 'compacted'
    UNION ALL SELECT left(log_id, 8), topic, partition, until FROM archive.restore_until) AS r
GROUP BY 1, 2, 3
"""

_LOGS = "SELECT DISTINCT log_id FROM archive.restore_found"

_LOST = """
SELECT path FROM unnest(
    CAST(:paths AS text[]), CAST(:stems AS text[]), CAST(:logs AS text[]), CAST(:regions AS text[]), CAST(:days AS bigint[]),
    CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:firsts AS bigint[])
) AS o (path, stem, log, region, day_us, topic, partition, first_offset)
WHERE NOT EXISTS (SELECT FROM archive.restore_found AS f WHERE f.path = o.path COLLATE "C")
  AND NOT EXISTS (SELECT FROM archive.restore_days AS d WHERE d.stem = o.stem COLLATE "C")
  AND NOT EXISTS (SELECT FROM archive.restore_gone AS g WHERE g.stem = o.stem COLLATE "C")
  AND NOT EXISTS (
    SELECT FROM archive.restore_until AS u
    WHERE left(u.log_id, 8) = o.log AND u.region = o.region COLLATE "C" AND u.day_us = o.day_us AND u.topic = o.topic COLLATE "C"
      AND u.partition = o.partition AND u.until >= o.first_offset)
ORDER BY path LIMIT 1
"""
