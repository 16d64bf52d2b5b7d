"""Which chunks are cut and not archived yet, and how one is cut and finished: the archive's transactions (law 4)."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.chunk import Chunk
from archive_svc.manifest import enter
from archive_svc.manifest_record import ManifestRow
from archive_svc.tables import CHUNKS
from mesh import ledger, positions
from mesh.errors import Fault, PositionLost
from mesh.ports import Partition
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction
from mesh.topics import SCREENED, SCREENED_BACKFILL

STAGE = "archive"
TOPICS = (SCREENED, SCREENED_BACKFILL)


class Chunks:
    """The archive's position of each partition of one log, and the chunk that was cut behind it."""

    def __init__(self, catalog: AsyncEngine, log_id: str) -> None:
        self._catalog = catalog
        self._log_id = log_id

    async def begin(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[Position, Chunk | None]]:
        """How far each partition is archived, and the chunk behind that which another attempt has cut: it must be archived
        as it is. Raises FailedPrecondition (OTHER_LOG) for positions of another log."""
        async with transaction(self._catalog) as connection:
            stored = await positions.read(connection, STAGE, self._log_id, TOPICS)
            rows = (await connection.execute(select(CHUNKS).where(CHUNKS.c.log_id == self._log_id))).all()
        begun: dict[Partition, tuple[Position, Chunk | None]] = {
            partition: (stored.get((NO_SLOT, partition), NOWHERE), None) for partition in partitions
        }
        for row in rows:
            partition = Partition(row.topic, row.partition)
            if partition not in begun:
                continue
            had, _ = begun[partition]
            if row.first_offset != had.next:
                where = f"{partition.topic}/{partition.number}"
                raise Fault(f"a chunk of {where} begins at offset {row.first_offset}, but the archive's position is {had.offset}")
            new = Position(row.last_offset, row.source_offset)
            begun[partition] = had, Chunk(self._log_id, partition, had, new, row.cut_us, row.by_json)
        return begun

    async def cut(self, chunk: Chunk) -> None:
        """The chunk is what it is, for good, on return: nothing of it was put before. Raises PositionLost when another archiver
        has cut or archived behind the same position."""
        topic, number = chunk.partition
        columns = {
            "log_id": self._log_id,
            "topic": topic,
            "partition": number,
            "first_offset": chunk.first_offset,
            "last_offset": chunk.new.offset,
            "source_offset": chunk.new.source_offset,
            "cut_us": chunk.cut_us,
            "by_json": chunk.by_json,
        }
        async with transaction(self._catalog) as connection:
            # Moved to where it is: so it is ours, and locked until the chunk is committed.
            await positions.move(connection, STAGE, self._log_id, chunk.partition, {NO_SLOT: chunk.had}, chunk.had)
            there = select(CHUNKS.c.first_offset).where(*_place(chunk))
            if (await connection.execute(there)).first() is not None:
                raise PositionLost(f"{STAGE} of {topic}/{number}: another archiver has cut the chunk at {chunk.first_offset}")
            await connection.execute(CHUNKS.insert(), columns)

    async def finish(self, chunk: Chunk, rows: Sequence[ManifestRow], counts: Counter[tuple[str, int]]) -> None:
        """The manifest knows the chunk's objects, its readings (`counts` by gateway and hour) are counted as archived, and the
        position is behind it, all at once; every object is durable before. Raises PositionLost when another archiver did it."""
        archived = {(gateway, hour_us, ledger.ARCHIVED): count for (gateway, hour_us), count in counts.items()}
        async with transaction(self._catalog) as connection:
            await positions.move(connection, STAGE, self._log_id, chunk.partition, {NO_SLOT: chunk.had}, chunk.new)
            await connection.execute(delete(CHUNKS).where(*_place(chunk)))
            await enter(connection, rows)
            await ledger.add(connection, archived)


def _place(chunk: Chunk) -> tuple[ColumnElement[bool], ...]:
    topic, number = chunk.partition
    return CHUNKS.c.log_id == chunk.log_id, CHUNKS.c.topic == topic, CHUNKS.c.partition == number
