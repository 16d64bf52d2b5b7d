"""Which archived readings lost against another of the same sensor and time, and are not to be restored?"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.manifest_record import ManifestRow
from archive_svc.pack import Places
from archive_svc.restore_tables import LOSERS, LOSERS_READ
from mesh.codec.conflicts import FOLDER, ConflictsObject, read_conflicts_path, read_losers
from mesh.errors import FailedPrecondition
from mesh.ports import Objects
from mesh.shards import transaction


class Losers:
    """What the conflicts objects of one archive or another say, kept in the catalog database: memory holds one object of 10,000
    at a time, and later those of one chunk."""

    def __init__(self, catalog: AsyncEngine) -> None:
        self._catalog = catalog

    async def read(self, objects: Objects, copy_to: Objects | None) -> None:
        """Knows all conflicts objects of this archive on return, and they are copied where that is asked for. Those that were
        read before are only listed. Raises FailedPrecondition (OBJECT_DAMAGED) when one is missing or not what was put."""
        expected: dict[tuple[str, int], int] = {}
        async for path in objects.list(FOLDER):
            of = read_conflicts_path(path)
            if of is None:
                if path.split("/")[2:3] == ["conflicts"] and path.endswith(".jsonl"):
                    raise _damaged(path, "its name is not that of an object of conflicting readings")
                continue
            line = expected.get((of.log_id, of.shard), 0)
            if of.first != line:
                raise _damaged(path, f"line {line} of its shard should be the first in it, or lines before it are missing")
            expected[of.log_id, of.shard] = line + of.count
            if not await self._is_read(path):
                content = await objects.get(path)
                await self._enter(of, content)
                if copy_to is not None:
                    await copy_to.put(path, content)
                await self._set_read(path)

    async def are_not(self, row: ManifestRow, places: Places) -> NDArray[np.bool_]:
        """For each place of this object's readings whether it did not lose."""
        query = select(LOSERS.c.offset, LOSERS.c.index).where(
            LOSERS.c.log_id == row.log_id,
            LOSERS.c.topic == row.topic,
            LOSERS.c.partition == row.partition,
            LOSERS.c.offset.between(row.first_offset, row.last_offset),
        )
        async with transaction(self._catalog) as connection:
            losers = {(offset, index) for offset, index in await connection.execute(query)}
        keep = np.ones(len(places.offset), np.bool_)
        suspects = np.flatnonzero(np.isin(places.offset, [offset for offset, _ in losers]))
        found = zip(places.offset[suspects].tolist(), places.index[suspects].tolist(), strict=True)
        keep[suspects] = [place not in losers for place in found]
        return keep

    async def _is_read(self, path: str) -> bool:
        async with transaction(self._catalog) as connection:
            return (await connection.execute(select(LOSERS_READ).where(LOSERS_READ.c.path == path))).first() is not None

    async def _enter(self, of: ConflictsObject, content: bytes) -> None:
        rows: list[Mapping[str, object]] = [
            {
                "log_id": of.log_id,
                "topic": loser.topic,
                "partition": loser.partition,
                "offset": loser.offset,
                "index": loser.index,
            }
            for loser in read_losers(of, content)
        ]
        if rows:
            async with transaction(self._catalog) as connection:
                await connection.execute(insert(LOSERS).on_conflict_do_nothing(), rows)

    async def _set_read(self, path: str) -> None:
        async with transaction(self._catalog) as connection:
            await connection.execute(insert(LOSERS_READ).values(path=path).on_conflict_do_nothing())


def _damaged(path: str, problem: str) -> FailedPrecondition:
    message = f"object {path!r} is damaged: {problem}; bring the archive back from a copy"
    return FailedPrecondition(message, reason="OBJECT_DAMAGED", metadata={"path": path})
