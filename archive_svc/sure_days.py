"""What reads closed days back, and says of which ones the archive is sure (mesh/codec/verified_days.py): shards may drop them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.chunks import STAGE, TOPICS
from archive_svc.day_tables import COLUMNS
from archive_svc.manifest_record import ManifestRow
from archive_svc.tables import OBJECTS
from archive_svc.verify import object_problem, record_problem
from mesh import positions
from mesh.codec.verified_days import DAY_US, is_verified, read_verified, verified_folder, write_verified
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, TooLarge
from mesh.ports import Clock, Objects
from mesh.shards import first_error, transaction

AT_ONCE = 4
_PAGE = 200


class SureDays:
    """Of one log, with what was restored here from others. Objects that a compaction has read back are not read again."""

    def __init__(self, catalog: AsyncEngine, objects: Objects, log_id: str, clock: Clock) -> None:
        self._catalog = catalog
        self._objects = objects
        self._log_id = log_id
        self._clock = clock
        self._said = ""

    async def verify(self, before_us: int) -> tuple[int, list[str]]:
        """Every object of days before that time has been read back on return, and is known to be sound or has its problem in the
        answer, with how many were read: some of them 1,000 at a call. Raises Unavailable when database or objects are away."""
        problems: list[str] = []
        checked, after = 0, ""
        while checked < 1_000 and (rows := await self._unverified(before_us, after)):
            for start in range(0, len(rows), AT_ONCE):
                some = rows[start : start + AT_ONCE]
                found = await self._check(some)
                sound = [row.path for row, problem in zip(some, found, strict=True) if not problem]
                problems += [f"{row.path}: {problem}" for row, problem in zip(some, found, strict=True) if problem]
                async with transaction(self._catalog) as connection:
                    now = {"verified_us": self._clock.now_us()}
                    await connection.execute(update(OBJECTS).where(OBJECTS.c.path.in_(sound)).values(now))
            checked += len(rows)
            after = rows[-1].path
        return checked, problems

    async def say(self, before_us: int) -> None:
        """The word of what is sure now is put on return, and older ones are gone. Raises Unavailable."""
        async with transaction(self._catalog) as connection:
            # One snapshot: whatever is before the position is among the objects.
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            found = await positions.read(connection, STAGE, self._log_id, TOPICS)
            unverified = (await connection.execute(text(_UNVERIFIED), {"before": before_us})).scalars().all()
        until = {(partition.topic, partition.number): position.offset for (_, partition), position in found.items()}
        said = repr((until, before_us, unverified))
        if said == self._said:
            return
        path, content = write_verified(self._log_id, until, before_us, unverified, self._clock.now_us())
        await self._objects.put(path, content)
        async for other in self._objects.list(verified_folder(self._log_id)):
            if other != path and is_verified(other) and await self._is_older(other):
                await self._objects.delete(other)
        self._said = said

    async def _is_older(self, path: str) -> bool:
        with suppress(NotFound, InvalidArgument, TooLarge, FailedPrecondition):
            return read_verified(path, await self._objects.get(path)).said_us < self._clock.now_us()
        return True

    async def _unverified(self, before_us: int, after: str) -> list[ManifestRow]:
        query = f"SELECT {COLUMNS} FROM archive.objects WHERE verified_us IS NULL AND first_us < :before AND path > :after"
        async with transaction(self._catalog) as connection:
            asked = {"before": before_us, "after": after}
            return [ManifestRow(*row) for row in await connection.execute(text(f"{query} ORDER BY path LIMIT {_PAGE}"), asked)]

    async def _check(self, rows: Sequence[ManifestRow]) -> list[str]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._problem(row)) for row in rows]
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors
        return [task.result() for task in tasks]

    async def _problem(self, row: ManifestRow) -> str:
        problem = await object_problem(self._objects, row) or await record_problem(self._objects, row)
        return problem if problem and await self._is_there(row) else ""

    async def _is_there(self, row: ManifestRow) -> bool:
        """It may just have been replaced."""
        async with transaction(self._catalog) as connection:
            return (await connection.execute(select(OBJECTS.c.path).where(OBJECTS.c.path == row.path))).first() is not None


_UNVERIFIED = f"""
SELECT DISTINCT first_us - ((first_us % {DAY_US}) + {DAY_US}) % {DAY_US} FROM archive.objects
WHERE verified_us IS NULL AND first_us < :before ORDER BY 1
"""
