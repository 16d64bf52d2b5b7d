"""Which days are to be compacted, which are, and what is left to be told or deleted of them: the transactions of a compaction."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields

from sqlalchemy import delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from archive_svc.day_notes import DayNote, done_path, read_note, write_note
from archive_svc.manifest import columns_of
from archive_svc.manifest_record import ManifestRow
from archive_svc.tables import COMPACTIONS, DAYS, OBJECTS
from mesh.errors import PositionLost
from mesh.shards import transaction

DAY_US = 86_400_000_000
_MOST_DAYS = 1_000


class DayTables:
    """The compacted days of one log."""

    def __init__(self, catalog: AsyncEngine, log_id: str) -> None:
        self._catalog = catalog
        self._log_id = log_id

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """Whether nobody else compacts inside the block. Only to save work: `commit` lets one of two through."""
        async with transaction(self._catalog) as connection:
            yield bool((await connection.execute(text(_ALONE))).scalar_one())

    async def candidates(self, before_us: int, quiet_us: int) -> list[tuple[str, int]]:
        """Region and begin of days that end at or before `before_us`, that have objects of chunks, and for which none was cut
        since `quiet_us`: the oldest first, a thousand at most."""
        asked = {"log_id": self._log_id, "before": before_us, "quiet": quiet_us, "limit": _MOST_DAYS}
        async with transaction(self._catalog) as connection:
            return [(region, day_us) for region, day_us in await connection.execute(text(_CANDIDATES), asked)]

    async def parts(self, region: str, day_us: int) -> list[ManifestRow]:
        """All objects of a day, in the order in which a restore would take them."""
        asked = {"log_id": self._log_id, "region": region, "begin": day_us, "end": day_us + DAY_US}
        async with transaction(self._catalog) as connection:
            return [ManifestRow(*row) for row in await connection.execute(text(_PARTS), asked)]

    async def begin(self, stem: str, now_us: int) -> None:
        """Objects whose paths begin with this are known to be an attempt on return."""
        async with transaction(self._catalog) as connection:
            values = {"stem": stem, "log_id": self._log_id, "begun_us": now_us}
            await connection.execute(insert(COMPACTIONS).values(values))

    async def commit(
        self, note: DayNote, day_us: int, parts: Sequence[ManifestRow], rows: Sequence[ManifestRow], now_us: int
    ) -> None:
        """The manifest has these rows instead of the parts, all at once. Raises PositionLost when the attempt was given up, or a
        part is not in the manifest any more: somebody else has compacted the day."""
        async with transaction(self._catalog) as connection:
            ended = await connection.execute(delete(COMPACTIONS).where(COMPACTIONS.c.stem == note.stem).returning(text("1")))
            arguments = {"paths": [part.path for part in parts], "stem": note.stem}
            moved = (await connection.execute(text(_REPLACE), arguments)).scalar_one()
            if ended.first() is None or moved != len(parts):
                problem = f"{len(parts) - moved} of {len(parts)} objects are gone: another worker has compacted it"
                raise PositionLost(f"the day of {note.stem}: {problem}")
            if rows:
                values = [columns_of(row) | {"verified_us": now_us} for row in rows]
                await connection.execute(insert(OBJECTS), values)
            await self._enter(connection, note, day_us, now_us)

    async def _enter(self, connection: AsyncConnection, note: DayNote, day_us: int, now_us: int) -> None:
        replaced = update(DAYS).where(DAYS.c.stem.in_(note.replaces)).values(replaced_by=note.stem)
        await connection.execute(replaced)
        day = {"stem": note.stem, "log_id": note.log_id, "region": note.region, "day_us": day_us}
        await connection.execute(insert(DAYS).values(day | {"note": write_note(note).decode(), "compacted_us": now_us}))

    async def notes(self, region: str, day_us: int) -> list[DayNote]:
        """Those of the compactions of a day that none has replaced."""
        asked = {"log_id": self._log_id, "region": region, "day_us": day_us}
        async with transaction(self._catalog) as connection:
            found = (await connection.execute(text(_NOTES), asked)).all()
        return [_read(log_id, stem, note) for log_id, stem, note in found]

    async def untold(self) -> list[DayNote]:
        """Compactions whose notes may not be put yet."""
        async with transaction(self._catalog) as connection:
            found = (await connection.execute(text(_UNTOLD), {"log_id": self._log_id})).all()
        return [_read(log_id, stem, note) for log_id, stem, note in found]

    async def set_told(self, stem: str) -> None:
        """The note is put."""
        async with transaction(self._catalog) as connection:
            await connection.execute(update(DAYS).where(DAYS.c.stem == stem).values(is_told=True))


def _read(log_id: str, stem: str, note: str) -> DayNote:
    return read_note(done_path(log_id, stem), note.encode())


COLUMNS = ", ".join(f'"{field.name}"' for field in fields(ManifestRow))

_ALONE = "SELECT pg_try_advisory_xact_lock(hashtext('archive.compact'))"

_DAY = "first_us - ((first_us % 86400000000) + 86400000000) % 86400000000"

_CANDIDATES = f"""
SELECT region, {_DAY} AS day_us FROM archive.objects
WHERE topic <> 'compacted' AND log_id = :log_id AND first_us < :before
GROUP BY 1, 2 HAVING max(stored_us) <= :quiet ORDER BY 2, 1 LIMIT :limit
"""

# As restore_plan orders them, within the day.
_PARTS = f"""
SELECT {COLUMNS} FROM (
    SELECT *, max(stored_us) OVER (PARTITION BY topic, partition ORDER BY first_offset) AS cut_us FROM archive.objects
    WHERE log_id = :log_id AND region = :region AND first_us >= :begin AND first_us < :end) AS o
ORDER BY topic <> 'compacted', cut_us, topic, partition, first_offset, path
"""

_REPLACE = f"""
WITH gone AS (DELETE FROM archive.objects WHERE path = ANY(CAST(:paths AS text[])) RETURNING region, {COLUMNS}),
    kept AS (INSERT INTO archive.replaced (region, {COLUMNS}, stem) SELECT *, :stem FROM gone RETURNING 1)
SELECT count(*) FROM kept
"""

_NOTES = """
SELECT log_id, stem, note FROM archive.days
WHERE log_id = :log_id AND region = :region AND day_us = :day_us AND replaced_by IS NULL
"""

_UNTOLD = "SELECT log_id, stem, note FROM archive.days WHERE log_id = :log_id AND NOT is_told"
