"""What deletes objects that nobody needs any more: those that a compacted day stands for, and those of killed attempts."""

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.day_notes import begun_path, done_path
from archive_svc.day_tables import COLUMNS
from archive_svc.manifest_record import DATA, MANIFEST, ManifestRow, manifest_path
from archive_svc.tables import COMPACTIONS, DAYS, REPLACED
from archive_svc.verify import object_problem, record_problem
from mesh.ports import Objects
from mesh.shards import first_error, transaction

_AT_ONCE = 8
_PAGE = 500
_log = structlog.get_logger()


class Sweep:
    """Of one log. What it does may be repeated, and ended at any moment."""

    def __init__(self, catalog: AsyncEngine, objects: Objects, log_id: str) -> None:
        self._catalog = catalog
        self._objects = objects
        self._log_id = log_id

    async def run(self, before_us: int) -> tuple[int, list[str]]:
        """What was replaced, or begun and given up, before that time is deleted on return, where that is safe: how many objects,
        and why of others none was. Never while a restore runs: it may have planned with what was replaced. Raises Unavailable."""
        if await self._is_restoring():
            return 0, []
        await self._attempts(before_us)
        count, problems = 0, []
        for stem in await self._stems(before_us):
            if problem := await self._problem(stem):
                problems.append(problem)
                continue
            count += await self._replaced(stem)
        return count, problems

    async def _is_restoring(self) -> bool:
        async with transaction(self._catalog) as connection:
            return bool((await connection.execute(text(_RESTORING))).scalar_one())

    async def _attempts(self, before_us: int) -> None:
        """Compactions that were begun and not committed: manifest records first, so that none ever names what is not there."""
        old = select(COMPACTIONS.c.stem).where(COMPACTIONS.c.log_id == self._log_id, COMPACTIONS.c.begun_us <= before_us)
        async with transaction(self._catalog) as connection:
            stems = (await connection.execute(old)).scalars().all()
        for stem in stems:
            inner = stem.removeprefix(f"{DATA}/")
            for prefix in (f"{MANIFEST}/{self._log_id}/{inner}", stem):
                await self._delete([path async for path in self._objects.list(f"{prefix}-")])
            await self._objects.delete(begun_path(self._log_id, stem))
            async with transaction(self._catalog) as connection:
                await connection.execute(delete(COMPACTIONS).where(COMPACTIONS.c.stem == stem))
            _log.info("remains of a compaction deleted", stem=stem)

    async def _stems(self, before_us: int) -> Sequence[str]:
        """Compactions whose parts are still there, the oldest first."""
        conditions = (DAYS.c.log_id == self._log_id, ~DAYS.c.is_swept, DAYS.c.is_told, DAYS.c.compacted_us <= before_us)
        query = select(DAYS.c.stem).where(*conditions).order_by(DAYS.c.compacted_us)
        async with transaction(self._catalog) as connection:
            return (await connection.execute(query)).scalars().all()

    async def _problem(self, stem: str) -> str:
        """Why the parts must stay: the objects in their place are read once more."""
        async with transaction(self._catalog) as connection:
            rows = [ManifestRow(*row) for row in await connection.execute(text(_OF_STEM), {"from": f"{stem}-", "to": f"{stem}."})]
        for row in rows:
            if problem := await object_problem(self._objects, row) or await record_problem(self._objects, row):
                return f"what {row.path} stands for is not deleted: {problem}"
        return ""

    async def _replaced(self, stem: str) -> int:
        """The parts of a compaction are gone on return, and the notes of compactions that it replaced."""
        count = 0
        query = text(f"SELECT {COLUMNS} FROM archive.replaced WHERE stem = :stem ORDER BY path LIMIT {_PAGE}")
        while True:
            async with transaction(self._catalog) as connection:
                rows = [ManifestRow(*row) for row in await connection.execute(query, {"stem": stem})]
            if not rows:
                break
            await self._delete([manifest_path(row) for row in rows])
            await self._delete([row.path for row in rows])
            async with transaction(self._catalog) as connection:
                await connection.execute(delete(REPLACED).where(REPLACED.c.path.in_([row.path for row in rows])))
            count += len(rows)
        async with transaction(self._catalog) as connection:
            notes = (await connection.execute(select(DAYS.c.stem).where(DAYS.c.replaced_by == stem))).scalars().all()
        for note in notes:
            await self._objects.delete(done_path(self._log_id, note))
        async with transaction(self._catalog) as connection:
            await connection.execute(delete(DAYS).where(DAYS.c.stem.in_(notes), DAYS.c.is_swept))
            await connection.execute(update(DAYS).where(DAYS.c.stem == stem).values(is_swept=True))
        return count

    async def _delete(self, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), _AT_ONCE):
            try:
                async with asyncio.TaskGroup() as group:
                    for path in paths[start : start + _AT_ONCE]:
                        group.create_task(self._objects.delete(path))
            except BaseExceptionGroup as errors:
                raise first_error(errors) from errors


# Whoever plans a restore later plans without what was replaced before.
_RESTORING = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND CAST(classid AS bigint) << 32 | CAST(objid AS bigint) = hashtext('archive.restore') AND objsubid = 1)
"""

_OF_STEM = f"""
SELECT {COLUMNS} FROM archive.objects WHERE path > :from AND path < :to
UNION ALL SELECT {COLUMNS} FROM archive.replaced WHERE path > :from AND path < :to
"""
