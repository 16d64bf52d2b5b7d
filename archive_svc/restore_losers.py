"""Which archived readings lost against another of the same sensor and time, and are not to be restored?"""

from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.first_of_each import repeated
from archive_svc.manifest_record import ManifestRow
from archive_svc.restore_tables import LOSERS, LOSERS_READ
from archive_svc.tables import COMPACTED
from archive_svc.unpacked import Unpacked
from mesh.codec.conflicts import MOST_LINE_BYTES, ConflictsObject, conflicts_folder, read_conflicts_path, read_losers
from mesh.codec.conflicts_told import MOST_BYTES, Told, is_told, read_told
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, TooLarge
from mesh.ports import Objects
from mesh.shards import transaction

LogPlace = tuple[str, str, int]
"""A log by its identity, a topic and the number of a partition."""


class Losers:
    """What the conflicts objects of one archive or another say, kept in the catalog database: memory holds one object of 10,000
    at a time, and later those of one chunk."""

    def __init__(self, catalog: AsyncEngine) -> None:
        self._catalog = catalog

    async def read(self, log_ids: Collection[str], objects: Objects, copy_to: Objects | None) -> dict[LogPlace, int]:
        """Knows all conflicts objects that this archive has of these logs on return, and they are copied where that is asked
        for. Those that were read before are only listed. The answer has for each partition of a log the last offset up to which
        they name all that lost, in every shard; one that some shard has not told of is missing. Raises FailedPrecondition
        (OBJECT_DAMAGED) when one is missing or not what was put."""
        expected: dict[tuple[str, int], int] = {}
        told: list[Told] = []
        for log_id in sorted(log_ids):
            async for path in objects.list(conflicts_folder(log_id)):
                if is_told(path):
                    told += await _read_told(path, objects, copy_to)
                elif path.endswith(".jsonl"):
                    await self._read_object(path, expected, objects, copy_to)
        return _known([one for one in told if one.line_count <= expected.get((one.log_id, one.shard), 0)])

    async def _read_object(
        self, path: str, expected: dict[tuple[str, int], int], objects: Objects, copy_to: Objects | None
    ) -> None:
        """`expected`: the number of the line with which the next object of a shard must begin."""
        of = read_conflicts_path(path)
        if of is None:
            raise _damaged(path, "its name is not that of an object of conflicting readings")
        line = expected.get((of.log_id, of.shard), 0)
        if of.first != line:
            raise _damaged(path, f"line {line} of its shard should be the first in it, or lines before it are missing")
        expected[of.log_id, of.shard] = line + of.count
        if await self._is_read(path):
            return
        content = await _get(path, objects, of.count * MOST_LINE_BYTES)
        await self._enter(of, content)
        if copy_to is not None:
            await copy_to.put(path, content)
        await self._set_read(path)

    async def are_not(self, row: ManifestRow, found: Unpacked) -> NDArray[np.bool_]:
        """For each reading of this object, or of a piece of it, whether it did not lose."""
        if row.topic == COMPACTED:  # without losers, apart from those that were not known then
            return await self._undecided_are_not(found)
        places = found.places
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
        asked = zip(places.offset[suspects].tolist(), places.index[suspects].tolist(), strict=True)
        keep[suspects] = [place not in losers for place in asked]
        return keep

    async def _undecided_are_not(self, found: Unpacked) -> NDArray[np.bool_]:
        keep = np.ones(len(found), np.bool_)
        suspects = repeated(found.readings)
        if not len(suspects):
            return keep
        places = found.places.take(suspects)
        topics, numbers = zip(*(places.partitions[of] for of in places.of.tolist()), strict=True)
        asked = {"log_id": found.log_id, "topics": list(topics), "partitions": list(numbers)}
        asked |= {"offsets": places.offset.tolist(), "indexes": places.index.tolist()}
        async with transaction(self._catalog) as connection:
            lost = (await connection.execute(text(_LOST), asked)).scalars().all()
        keep[suspects[np.array(lost, np.intp) - 1]] = False
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


async def _read_told(path: str, objects: Objects, copy_to: Objects | None) -> list[Told]:
    """One; none where another that says more has just taken its place."""
    try:
        content = await _get(path, objects, MOST_BYTES)
        told = read_told(path, content)
    except NotFound:
        return []
    except InvalidArgument as error:
        raise _damaged(path, error.message) from error
    if copy_to is not None:
        await copy_to.put(path, content)
    return [told]


async def _get(path: str, objects: Objects, limit: int) -> bytes:
    try:
        return await objects.get(path, limit)
    except TooLarge as error:
        raise _damaged(path, error.message) from error


def _known(told: list[Told]) -> dict[LogPlace, int]:
    by_shard: dict[LogPlace, dict[int, int]] = defaultdict(dict)
    shard_count: dict[str, int] = defaultdict(int)
    for one in told:
        shard_count[one.log_id] = max(shard_count[one.log_id], one.shard_count)
        for (topic, partition), offset in one.until.items():
            of = by_shard[one.log_id, topic, partition]
            of[one.shard] = max(offset, of.get(one.shard, -1))
    return {place: min(of.values()) for place, of in by_shard.items() if len(of) >= shard_count[place[0]]}


def _damaged(path: str, problem: str) -> FailedPrecondition:
    message = f"object {path!r} is damaged: {problem}; bring the archive back from a copy"
    return FailedPrecondition(message, reason="OBJECT_DAMAGED", metadata={"path": path})


# Places in the question, counted from 1, of those that lost.
_LOST = """
SELECT place FROM unnest(
    CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]), CAST(:indexes AS int[])
) WITH ORDINALITY AS asked (topic, partition, "offset", index, place)
JOIN archive.losers AS l USING (topic, partition, "offset", index) WHERE l.log_id = :log_id
"""
