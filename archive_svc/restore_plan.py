"""In which order are the objects of a restore taken? So that of two readings of one key the one that was recorded first is put
back first, as near as objects can tell."""

from collections.abc import AsyncIterator, Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.day_tables import COLUMNS
from archive_svc.manifest import Wanted
from archive_svc.manifest_record import ManifestRow
from archive_svc.restore_losers import LogPlace
from mesh.shards import transaction

_PAGE = 200


class Plan:
    """The objects to restore, from our own manifest (`found` False) or from the one that was read into archive.restore_found.

    Within a partition of a log the order is that of its offsets, which is the order of recording. Between partitions it is that
    of the times at which chunks were cut, which may differ from it by as long as a chunk waits. Readings that lost are left out
    by their places, so this decides only where two partitions have one key with the same values: flags and region that come
    back are those of the chunk that was cut first. And where it is not known yet what lost: see `put_last`.
    Compacted days come first: chunks of the same day came later, and what lost is not in them. All objects of such a day are
    taken, or none.
    """

    def __init__(self, catalog: AsyncEngine, found: bool) -> None:
        self._catalog = catalog
        self._table = "archive.restore_found" if found else "archive.objects"
        self._rows = self._table if found else _OWN

    async def make(self, wanted: Wanted) -> int:
        """Replaces the plan of the restore before; how many readings its objects have."""
        filters = {"regions": sorted(set(wanted.regions)) or None, "start": wanted.start_us, "end": wanted.end_us}
        async with transaction(self._catalog) as connection:
            await connection.execute(text("DELETE FROM archive.restore_plan"))
            await connection.execute(text(_MAKE.format(table=self._table)), filters)
            return int((await connection.execute(text(_TOTAL.format(table=self._table)))).scalar_one())

    async def ends(self) -> dict[LogPlace, int]:
        """The last offset of each partition that an object of the plan has; of compacted days, which have no losers, -1."""
        async with transaction(self._catalog) as connection:
            found = await connection.execute(text(_ENDS.format(table=self._table)))
            return {(log_id, topic, partition): offset for log_id, topic, partition, offset in found}

    async def put_last(self, known: Mapping[LogPlace, int]) -> None:
        """Objects behind these offsets come after all others: whoever may have won against one of their readings, and is known
        to have not lost, is put back before it. Once, before the first row is taken."""
        logs, topics, partitions = zip(*known, strict=True) if known else ((), (), ())
        places = {"logs": list(logs), "topics": list(topics), "partitions": list(partitions), "offsets": list(known.values())}
        async with transaction(self._catalog) as connection:
            await connection.execute(text(_PUT_LAST.format(table=self._table)), places)

    async def rows(self) -> AsyncIterator[ManifestRow]:
        """The objects in order; a page of them is in memory."""
        place = 0
        while True:
            async with transaction(self._catalog) as connection:
                asked = {"place": place, "limit": _PAGE}
                page = (await connection.execute(text(_ROWS.format(table=self._rows)), asked)).all()
            for place, *values in page:  # noqa: B007 - the next page begins behind the last place
                yield ManifestRow(*values)
            if len(page) < _PAGE:
                return


# Cut times never go back within a partition, even where the clock did.
_MAKE = """
INSERT INTO archive.restore_plan (place, path)
SELECT row_number() OVER (ORDER BY topic <> 'compacted', cut_us, log_id, topic, partition, first_offset, path), path FROM (
    SELECT *, max(stored_us) OVER (PARTITION BY log_id, topic, partition ORDER BY first_offset) AS cut_us,
           first_us - CASE topic WHEN 'compacted' THEN (first_us % 86400000000 + 86400000000) % 86400000000 ELSE 0 END AS begin_us
    FROM {table}) AS o
WHERE (CAST(:regions AS text[]) IS NULL OR region = ANY(CAST(:regions AS text[])))
  AND (CAST(:start AS bigint) IS NULL OR CASE topic WHEN 'compacted' THEN begin_us + 86399999999 ELSE last_us END >= :start)
  AND (CAST(:end AS bigint) IS NULL OR begin_us < :end)
"""

_ENDS = """
SELECT log_id, topic, partition, max(CASE topic WHEN 'compacted' THEN -1 ELSE last_offset END)
FROM archive.restore_plan JOIN {table} USING (path) GROUP BY 1, 2, 3
"""

_PUT_LAST = """
UPDATE archive.restore_plan AS p SET place = place + 1000000000000
FROM {table} AS o LEFT JOIN unnest(
    CAST(:logs AS text[]), CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[])
) AS known (log_id, topic, partition, until) USING (log_id, topic, partition)
WHERE o.path = p.path AND o.topic <> 'compacted' AND o.last_offset > coalesce(until, -1)
"""

_TOTAL = "SELECT coalesce(sum(reading_count), 0) FROM archive.restore_plan JOIN {table} USING (path)"

# What a compaction has replaced since the plan was made is still there: nothing is swept while a restore runs.
_OWN = f"(SELECT {COLUMNS} FROM archive.objects UNION ALL SELECT {COLUMNS} FROM archive.replaced) AS o"

_ROWS = """
SELECT place, path, reading_count, size_bytes, sha256, first_us, last_us, log_id, topic, partition, first_offset, last_offset,
       stored_us
FROM archive.restore_plan JOIN {table} USING (path) WHERE place > :place ORDER BY place LIMIT :limit
"""
