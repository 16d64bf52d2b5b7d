"""The arrow `record`: screened records from the Log into the shards, each reading once, with its position and its count."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import ledger, positions
from mesh.codec.log_records import Dead, Screened, read_screened, write_dead
from mesh.codec.stamp import Stamp, read_source, read_stamp, write_stamp
from mesh.errors import Fault, InvalidArgument
from mesh.ports import Assigned, Consumer, Log, Partition, Records, Revoked, Stored
from mesh.ports import Record as LogRecord
from mesh.positions import NOWHERE, Position
from mesh.shards import Shards, transaction
from mesh.stages import Progress
from mesh.topics import DEAD, SCREENED, SCREENED_BACKFILL
from query_svc.rows import STORED, Arrived, Rows, split
from query_svc.seen import Seen
from query_svc.store import keep_losers, store
from query_svc.tables import REGION_LENGTH

STAGE = "record"
TOPICS = (SCREENED, SCREENED_BACKFILL)
MOST_ROWS = 50_000
FIRST_US = -210_866_803_200_000_000  # the first time that timestamptz holds; the last is beyond what our column can tell
_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Had:
    """What the shards have of one partition: each slot's position, and the source offset of the last record that was read."""

    offset: NDArray[np.int64]
    source: NDArray[np.int64]
    last_source: int


class Record:
    """Consumes `screened` (preferred) and `screened_backfill` as a member of the group "record".

    One flush is one transaction per shard, all shards at once: it moves the positions of all slots of the shard from exactly
    the values that were read, writes the rows and counts them. So after a crash anywhere each slot goes on from its own
    position, and a record that a slot has had changes nothing there. Two workers on one partition: one of them ends with
    PositionLost.

    A record that cannot be read is put into `dead` first, attributed by its headers, then passed by means of its header `source`
    (the offsets that its value would have told). Without that header the worker stops: our own screener writes it.
    """

    def __init__(self, log: Log, shards: Shards, progress: Progress) -> None:
        self._log = log
        self._shards = shards
        self._progress = progress
        self._seen = [Seen() for _ in shards.engines]
        self._expect_known = [False] * len(shards.engines)

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Fault at a hole in the screened records, Unavailable when a shard or the Log is away."""
        had: dict[Partition, Had] = {}
        async with self._log.consume(STAGE, TOPICS) as consumer:
            while True:
                match await consumer.next(1.0):
                    case Assigned(partitions):
                        had |= await self._begin(consumer, partitions)
                    case Records(partition, records):
                        for run in cut(records):
                            await self._flush(partition, had[partition], run)
                    case Revoked(partitions):
                        self._progress.left(partitions)
                        for partition in partitions:
                            had.pop(partition, None)

    async def _begin(self, consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, Had]:
        """Reads every slot's position from the shard that owns it, and goes on from the lowest."""
        owners = self._shards.owner.tolist()

        async def read(_: int, engine: AsyncEngine) -> dict[tuple[int, Partition], Position]:
            async with transaction(engine) as connection:
                return await positions.read(connection, STAGE, self._log.log_id, TOPICS)

        stored = await self._shards.gather(read)
        begun = {}
        for partition in partitions:
            found = [stored[shard].get((slot, partition), NOWHERE) for slot, shard in enumerate(owners)]
            lowest = min(found)
            offset, source = np.array(found, np.int64).T.copy()
            begun[partition] = Had(offset, source, lowest.source_offset)
            self._progress.started(partition, lowest.next)
        await consumer.seek({partition: int(had.offset.min()) + 1 for partition, had in begun.items()})
        return begun

    async def _flush(self, partition: Partition, had: Had, run: Sequence[Stored]) -> None:
        """All records of the run are recorded in every shard on return."""
        read = await asyncio.to_thread(lambda: [_read(partition, stored) for stored in run])
        arrived: list[Arrived] = []
        for stored, (content, (source_offset, previous), problem) in zip(run, read, strict=True):
            if source_offset <= had.last_source:
                continue
            if previous != had.last_source:
                where = f"{partition.topic}/{partition.number} offset {stored.offset}"
                raise Fault(f"{where} follows source offset {previous}, but {had.last_source} was had last: records are missing")
            had.last_source = source_offset
            if content is None:
                await self._bury(partition, stored, problem)
            else:
                arrived.append(content)
        await self._write(partition, had, arrived, Position(run[-1].offset, had.last_source))
        self._progress.covered(partition, run[-1].offset + 1, len(run))

    async def _write(self, partition: Partition, had: Had, arrived: Sequence[Arrived], new: Position) -> None:
        parts = await asyncio.to_thread(split, arrived, had.source, self._shards)
        behind = had.offset < new.offset

        async def write(shard: int, engine: AsyncEngine) -> None:
            slots = [slot for slot in self._shards.slots_of_shard(shard) if behind[slot]]
            expected = {slot: Position(int(had.offset[slot]), int(had.source[slot])) for slot in slots}
            if expected:
                await self._write_shard(shard, engine, partition, expected, new, parts[shard])

        await self._shards.gather(write)
        had.offset[behind], had.source[behind] = new

    async def _write_shard(
        self, shard: int, engine: AsyncEngine, partition: Partition, expected: dict[int, Position], new: Position, rows: Rows
    ) -> None:
        """One transaction. What is remembered beside the database is remembered only once it is committed."""
        async with transaction(engine) as connection:
            await positions.move(connection, STAGE, self._log.log_id, partition, expected, new)
            if not len(rows):
                return
            outcome = await store(connection, rows, self._expect_known[shard])
            await keep_losers(connection, rows, outcome, self._log.log_id, partition)
            entered = await self._seen[shard].enter(connection, rows, outcome)
            await ledger.add(connection, rows.counts(outcome))
        self._seen[shard].remember(entered)
        self._expect_known[shard] = bool((outcome[rows.head] != STORED).any())

    async def _bury(self, partition: Partition, stored: Stored, problem: str) -> None:
        """The record is durable in `dead` on return. Twice after a crash: `count` knows it by its place."""
        stamp = read_stamp(stored.record.headers)
        _log.warning("record buried", topic=partition.topic, partition=partition.number, offset=stored.offset, problem=problem)
        dead = Dead(
            stage=STAGE,
            topic=partition.topic,
            partition=partition.number,
            offset=stored.offset,
            gateway_id=stamp.gateway_id,
            hour_us=stamp.hour_us,
            reading_count=stamp.count,
            problem=problem[:500],
            content=stored.record.value,
        )
        await (await self._log.append(Partition(DEAD, partition.number), LogRecord(write_dead(dead), write_stamp(stamp))))


def cut(records: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Runs of at most 50,000 readings by their headers, or of one record."""
    run: list[Stored] = []
    count = 0
    for stored in records:
        more = _stamp(stored).count
        if run and count + more > MOST_ROWS:
            yield run
            run, count = [], 0
        run.append(stored)
        count += more
    if run:
        yield run


def _stamp(stored: Stored) -> Stamp:
    """Raises Fault when the headers are unreadable: our own stages wrote them."""
    try:
        return read_stamp(stored.record.headers)
    except ValueError as error:
        raise Fault(f"headers of screened offset {stored.offset}: {error}") from error


def _read(partition: Partition, stored: Stored) -> tuple[Arrived | None, tuple[int, int], str]:
    """The record (None: it cannot be recorded, and why) and (source_offset, previous_source_offset)."""
    stamp = _stamp(stored)
    try:
        screened = read_screened(stored.record.value)
    except InvalidArgument as error:
        return None, _source(partition, stored), error.message
    source = (screened.source_offset, screened.previous_source_offset)
    problem = _problem(screened, stamp)
    if problem:
        return None, source, problem
    return Arrived(stored.offset, stamp, screened.region, screened.source_offset, screened.readings), source, ""


def _source(partition: Partition, stored: Stored) -> tuple[int, int]:
    try:
        source = read_source(stored.record.headers)
    except ValueError:
        source = None
    if source is None:
        where = f"{partition.topic}/{partition.number} offset {stored.offset}"
        raise Fault(f"{where} can be read neither by its value nor by its header `source`")
    return source


def _problem(screened: Screened, stamp: Stamp) -> str:
    """Why no shard could take it, or why it could not be counted as its headers promise; empty: nothing is wrong."""
    readings = screened.readings
    if len(readings) != stamp.count:
        return f"{len(readings)} readings, but the headers say {stamp.count}"
    if len(screened.region) > REGION_LENGTH or "\0" in screened.region:
        return f"region {screened.region!r}: at most {REGION_LENGTH} characters, none of them NUL"
    if len(readings) and readings.measured_at_us.min() < FIRST_US:
        return f"measured at {readings.measured_at_us.min()} us, before the first time that PostgreSQL can hold"
    return ""
