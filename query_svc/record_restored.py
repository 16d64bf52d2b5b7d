"""The arrow `record_restored`: archived readings from the topic `restored` into the shards; what is there is left alone."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh import positions
from mesh.codec.dead_letter import dead_letter
from mesh.codec.restored_records import read_restored
from mesh.codec.stamp import NOBODY
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Assigned, Consumer, Log, Partition, Record, Records, Revoked, Stored
from mesh.positions import Position
from mesh.shard_map import hold
from mesh.shards import AnyShards, Shards, transaction
from mesh.stages import Progress
from mesh.topics import DEAD, RESTORED
from query_svc.arrivals import MOST_ROWS, unstorable
from query_svc.moved import MOVED
from query_svc.record import STAGE as RECORD
from query_svc.record_slots import find
from query_svc.rows import STORED, Arrived, Rows, split
from query_svc.seen import Seen
from query_svc.store import store

STAGE = "record_restored"
TOPICS = (RESTORED,)
WRITE_WITHIN_S = 20.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Piece:
    """One record: its readings, and the object that they come from; None and the `problem`: it cannot be recorded."""

    stored: Stored
    content: Arrived | None
    path: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Flush:
    """What goes into the shards at once: rows for each of them, the object of each of their records, and the offset reached."""

    partition: Partition
    offset: int
    shards: Shards
    parts: Mapping[int, Rows]
    paths: Sequence[str]


class RecordRestored:
    """Consumes `restored` as a member of the group "record_restored", and stores as the recorder does: one transaction per shard
    moves the positions of all its slots (those of the stage `record`, so that whoever waits for a position waits for this one
    too), writes the rows whose keys are not there, and counts per object what was stored and what was known.

    Nothing of it is in the ledger, and a reading that differs from the one that is there loses without a trace: it is in its
    object. A record that cannot be read goes into `dead`, belonging to nobody.

    It is in no hurry: while a shard is away or a slot is being moved the worker ends, and begins again where the slots are then.
    """

    def __init__(self, log: Log, shards: AnyShards, progress: Progress) -> None:
        self._log = log
        self._shards = shards
        self._progress = progress
        self._seen: dict[int, Seen] = defaultdict(Seen)
        self._expect_known: dict[int, bool] = {}

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Unavailable when a shard or the Log is away, or a slot is not where the map says, or not to be written."""
        had: dict[Partition, NDArray[np.int64]] = {}
        async with self._log.consume(STAGE, TOPICS) as consumer:
            while True:
                match await consumer.next(1.0):
                    case Assigned(partitions):
                        had |= await self._begin(consumer, partitions)
                    case Records(partition, records):
                        pieces = await asyncio.to_thread(_read_pieces, records)
                        for run in _cut(pieces):
                            await self._write(partition, had[partition], run)
                    case Revoked(partitions):
                        self._progress.left(partitions)
                        for partition in partitions:
                            had.pop(partition, None)

    async def _begin(self, consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, NDArray[np.int64]]:
        """The offset that each slot has had, from the shard that owns it; goes on from the lowest."""
        shards = self._shards.now
        asked = {shard: shards.slots_of_shard(shard) for shard in shards.owning}
        found = await find(shards, asked, RECORD, self._log.log_id, TOPICS)
        if missing := sorted(set(range(shards.slots)) - found.writable):
            await self._shards.newer()
            raise _not_to_be_written(missing, "; ".join(found.away.values()))
        begun = {partition: found.had(partition, np.arange(shards.slots), shards.slots).offset for partition in partitions}
        for partition, offsets in begun.items():
            self._progress.started(partition, int(offsets.min()) + 1)
        await consumer.seek({partition: int(offsets.min()) + 1 for partition, offsets in begun.items()})
        return begun

    async def _write(self, partition: Partition, had: NDArray[np.int64], run: Sequence[_Piece]) -> None:
        """The run is in every shard on return, and `had` tells so."""
        for piece in run:
            if piece.content is None:
                await self._bury(partition, piece)
        readable = [(piece.content, piece.path) for piece in run if piece.content is not None]
        shards = self._shards.now
        parts = await asyncio.to_thread(split, [content for content, _ in readable], had, shards)
        flush = _Flush(partition, run[-1].stored.offset, shards, parts, [path for _, path in readable])
        behind = had < flush.offset

        async def write(shard: int, engine: AsyncEngine) -> None:
            slots = [slot for slot in shards.slots_of_shard(shard) if behind[slot]]
            if slots:
                await self._write_shard(shard, engine, flush, {slot: _position(int(had[slot])) for slot in slots})

        await shards.gather(write, shards.owning)
        had[behind] = flush.offset
        self._progress.covered(partition, flush.offset + 1, len(run))

    async def _write_shard(self, shard: int, engine: AsyncEngine, flush: _Flush, expected: dict[int, Position]) -> None:
        """One transaction. What is remembered beside the database is remembered only once it is committed."""
        rows = flush.parts[shard]
        async with transaction(engine, WRITE_WITHIN_S) as connection:
            if missing := sorted(set(expected) - await hold(connection, expected, WRITE_WITHIN_S)):
                raise _not_to_be_written(missing)
            await positions.move(connection, RECORD, self._log.log_id, flush.partition, expected, _position(flush.offset))
            if not len(rows):
                return
            outcome = await store(connection, rows, self._expect_known.get(shard, False))
            entered = await self._seen[shard].enter(connection, rows, outcome)
            await _count(connection, rows, outcome, flush.paths)
        self._seen[shard].remember(entered)
        self._expect_known[shard] = bool((outcome[rows.head] != STORED).any())

    async def _bury(self, partition: Partition, piece: _Piece) -> None:
        """The record is durable in `dead` on return, without any header: it belongs to no gateway, and counts nowhere."""
        place = {"topic": partition.topic, "partition": partition.number, "offset": piece.stored.offset}
        _log.warning("restored record buried", problem=piece.problem, **place)
        nobodys = Stored(piece.stored.offset, Record(piece.stored.record.value), piece.stored.appended_at_us)
        await (await self._log.append(Partition(DEAD, partition.number), dead_letter(STAGE, partition, nobodys, piece.problem)))


def _not_to_be_written(slots: Sequence[int], why: str = "") -> Unavailable:
    return Unavailable(f"slots {list(slots)[:10]} cannot be written now: {why or 'they are being moved'}", reason=MOVED)


def _position(offset: int) -> Position:
    """A restored record is made from no other."""
    return Position(offset, -1)


def _read_pieces(records: Sequence[Stored]) -> list[_Piece]:
    return [_read(stored) for stored in records]


def _read(stored: Stored) -> _Piece:
    try:
        restored = read_restored(stored.record.value)
    except InvalidArgument as error:
        return _Piece(stored, None, problem=error.message)
    if problem := unstorable(restored.region, restored.readings):
        return _Piece(stored, None, problem=problem)
    return _Piece(stored, Arrived(stored.offset, NOBODY, restored.region, stored.offset, restored.readings), restored.object_path)


def _cut(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Runs of at most 50,000 readings, or of one record."""
    run: list[_Piece] = []
    count = 0
    for piece in pieces:
        more = len(piece.content.readings) if piece.content else 0
        if run and count + more > MOST_ROWS:
            yield run
            run, count = [], 0
        run.append(piece)
        count += more
    if run:
        yield run


async def _count(connection: AsyncConnection, rows: Rows, outcome: NDArray[np.int8], paths: Sequence[str]) -> None:
    """Adds to the counts of the objects, in the order of their paths, as every writer does."""
    all_of_them = np.bincount(rows.record, minlength=len(paths))
    stored = np.bincount(rows.record[outcome == STORED], minlength=len(paths))
    sums: Counter[str] = Counter()
    new: Counter[str] = Counter()
    for path, count, stored_count in zip(paths, all_of_them.tolist(), stored.tolist(), strict=True):
        sums[path] += count
        new[path] += stored_count
    touched = sorted(path for path, count in sums.items() if count)
    arguments = {
        "paths": touched,
        "stored": [new[path] for path in touched],
        "known": [sums[path] - new[path] for path in touched],
    }
    await connection.execute(text(_COUNT), arguments)


_COUNT = """
INSERT INTO restored_objects (path, stored, known)
SELECT path, stored, known
FROM unnest(CAST(:paths AS text[]), CAST(:stored AS bigint[]), CAST(:known AS bigint[]))
    WITH ORDINALITY AS o (path, stored, known, place) ORDER BY place
ON CONFLICT (path) DO UPDATE SET stored = restored_objects.stored + excluded.stored,
                                 known = restored_objects.known + excluded.known
"""
