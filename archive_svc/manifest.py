"""What does the manifest hold: which objects, below which paths, and which of those that are found does it not know?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from archive_svc.manifest_record import ManifestRow, described_by, safe_region
from archive_svc.tables import OBJECTS
from mesh.errors import InvalidArgument
from mesh.pages import page_size, read_cursor, write_cursor
from mesh.shards import transaction
from mesh.tokens import fingerprint

MOST_REGIONS = 1_000
DEFAULT_PAGE = 100
MOST_PAGE = 1_000
_TOKEN = "archive page"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of the archive: all conditions hold together, an empty one does not restrict. Times are microseconds since
    1970, `end_us` excluded; an object is wanted when any time from its first to its last reading is."""

    regions: tuple[str, ...] = ()
    start_us: int | None = None
    end_us: int | None = None

    def fingerprint(self) -> str:
        """The same for the same part, in whatever order its regions are named."""
        return fingerprint(repr((sorted(set(self.regions)), self.start_us, self.end_us)).encode())


def check_wanted(wanted: Wanted) -> None:
    """Raises InvalidArgument (INVALID_FILTER) that names every problem by its field path."""
    problems = {}
    if len(wanted.regions) > MOST_REGIONS:
        problems["filter.regions"] = f"{len(wanted.regions)} given, at most {MOST_REGIONS} in one question"
    if wrong := [region for region in wanted.regions if not safe_region(region)]:
        problems["filter.regions"] = f"{wrong[0][:80]!r} is no region: 1 to 20 characters of a-z 0-9 _ -"
    if wanted.start_us is not None and wanted.end_us is not None and wanted.start_us >= wanted.end_us:
        problems["filter.end_time"] = "not after start_time: nothing can lie between them"
    if problems:
        listed = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
        raise InvalidArgument(listed, reason="INVALID_FILTER", fields=problems)


class Manifest:
    """The rows of `archive.objects`. Everything is read by path, a page at a time."""

    def __init__(self, catalog: AsyncEngine) -> None:
        self._catalog = catalog

    async def page(self, wanted: Wanted, size: int, token: str) -> tuple[list[ManifestRow], str]:
        """A page of rows by path (0: 100; at most 1,000) and the token of the next; empty: the end. What is archived meanwhile
        is in a later page or not at all, never twice. Raises InvalidArgument for a wrong size or filter, for a token that is
        not ours (INVALID_TOKEN) and for one of another filter (QUESTION_CHANGED)."""
        check_wanted(wanted)
        limit = page_size(size, DEFAULT_PAGE, MOST_PAGE)
        (after,) = read_cursor(_TOKEN, wanted.fingerprint(), token, [str]) or ("",)
        rows = await self.rows(wanted, after, limit + 1)
        page = rows[:limit]
        return page, write_cursor(_TOKEN, wanted.fingerprint(), [page[-1].path]) if len(rows) > limit else ""

    async def rows(self, wanted: Wanted, after: str, limit: int) -> list[ManifestRow]:
        """Up to `limit` rows by path, behind the path `after` (empty: from the first). Raises Unavailable when the database
        is away."""
        query = select(*_COLUMNS).where(OBJECTS.c.path > after, *_conditions(wanted)).order_by(OBJECTS.c.path).limit(limit)
        async with transaction(self._catalog) as connection:
            return [ManifestRow(*row) for row in await connection.execute(query)]

    async def count(self, wanted: Wanted) -> int:
        """How many rows there are."""
        async with transaction(self._catalog) as connection:
            query = select(func.count()).select_from(OBJECTS).where(*_conditions(wanted))
            return int((await connection.execute(query)).scalar_one())

    async def unknown(self, paths: Sequence[str]) -> list[str]:
        """Those of these paths of objects and manifest records of our own that have no row, and that no chunk or compaction is
        putting now, nor the last restore was copying, nor has a compaction replaced: seen in one moment, so what was found before
        the call is never unknown because it was just being archived."""
        if not paths:
            return []
        described = [described_by(path) for path in paths]
        asked = {"found": list(paths), "paths": [path for path, _ in described], "logs": [log_id for _, log_id in described]}
        async with transaction(self._catalog) as connection:
            return list((await connection.execute(text(_UNKNOWN), asked)).scalars().all())


async def enter(connection: AsyncConnection, rows: Sequence[ManifestRow]) -> None:
    """Enters rows, in this transaction."""
    if rows:
        await connection.execute(OBJECTS.insert(), [columns_of(row) for row in rows])


def columns_of(row: ManifestRow) -> dict[str, object]:
    """A row as the columns of a table of rows."""
    return {**asdict(row), "region": row.region}


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.regions:
        conditions.append(OBJECTS.c.region.in_(sorted(set(wanted.regions))))
    if wanted.start_us is not None:
        conditions.append(OBJECTS.c.last_us >= wanted.start_us)
    if wanted.end_us is not None:
        conditions.append(OBJECTS.c.first_us < wanted.end_us)
    return conditions


_COLUMNS = [OBJECTS.c[field.name] for field in fields(ManifestRow)]

# An object of a chunk is named by log, topic, partition and first offset of its chunk (manifest_record.object_path), one of a
# compaction by its stem.
_UNKNOWN = """
WITH putting AS (
    SELECT '/' || left(log_id, 8) || '-' || topic || '-' || partition || '-' || lpad(CAST(first_offset AS text), 20, '0') AS name
    FROM archive.chunks UNION ALL SELECT stem FROM archive.compactions
)
SELECT found FROM unnest(CAST(:found AS text[]), CAST(:paths AS text[]), CAST(:logs AS text[]))
    WITH ORDINALITY AS f (found, described, log, place)
WHERE NOT EXISTS (
    SELECT FROM archive.objects WHERE path = described COLLATE "C" AND log IN ('', log_id))
  AND NOT EXISTS (SELECT FROM archive.replaced WHERE path = described COLLATE "C" AND log IN ('', log_id))
  AND NOT EXISTS (SELECT FROM archive.restore_found WHERE path = described COLLATE "C" AND log IN ('', log_id))
  AND NOT EXISTS (SELECT FROM putting WHERE strpos(described, name) > 0)
ORDER BY place
"""
