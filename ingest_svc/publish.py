"""The arrow `publish`: conditions, from the screened records and from `silence`, onto the Exchange, high (laws 9 and 10)."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc.board_updates import BoardUpdates
from mesh import positions
from mesh.aliens import without_aliens
from mesh.codec.dead_letter import dead_letter
from mesh.codec.log_records import read_screened
from mesh.codec.stamp import read_conditions, source_of
from mesh.codec.tasks import Task, read_task, write_task
from mesh.errors import Fault, InvalidArgument, TooLarge
from mesh.ports import Assigned, Clock, Consumer, Exchange, Log, Partition, Priority, Records, Revoked, Stored
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import first_error, transaction
from mesh.stages import Progress
from mesh.topics import DEAD, SCREENED, SCREENED_BACKFILL, SILENCE

STAGE = "publish"
TOPICS = (SCREENED, SCREENED_BACKFILL, SILENCE)
MOST_IN_FLIGHT = 32
MOVE_EVERY_US = 500_000
THREAD_FROM_CONDITIONS = 100
MOST_SEVERE = 5
_log = structlog.get_logger()


@dataclass(slots=True)
class _Place:
    """Where we are in one partition: everything up to `had` is published and confirmed, everything up to `kept` is also known
    to be so; `handled`: records in between."""

    had: Position
    kept: Position
    handled: int = 0


class Publish:
    """Consumes `screened` (preferred), `screened_backfill` and `silence` as a member of the group "publish".

    Every condition of a record goes to the high queue, its severity_level as severity, up to 32 at a time; once all before are
    confirmed the position moves, from exactly the value that was read. While the Exchange is away (Unavailable) conditions wait
    in the Log, nowhere else. After a crash some MAY be published again, which does no harm: a task is the full state of an
    episode. A record without the header `conditions` holds none and is not decoded here.

    A record whose conditions cannot be read, or are too big for any queue, goes to `dead`, durable before it is passed; in the
    ledger its readings stand as dead:publish, outside the laws, since they are stored and archived all the same.

    To move the position costs a catalog transaction, so where nothing was published it moves twice a second. Records of the live
    lane are also shown to `board`, which runs beside and never holds anything up.
    """

    def __init__(
        self, log: Log, exchange: Exchange, catalog: AsyncEngine, progress: Progress, clock: Clock, board: BoardUpdates
    ) -> None:
        self._log = log
        self._exchange = exchange
        self._catalog = catalog
        self._progress = progress
        self._clock = clock
        self._board = board
        self._told = ""

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Fault at a hole in the screened records, Unavailable when the Exchange, the database or the Log is away."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._board.run())
                await self._follow()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    async def _follow(self) -> None:
        mine: dict[Partition, _Place] = {}
        move_at_us = self._clock.now_us()
        async with self._log.consume(STAGE, TOPICS) as consumer:
            while True:
                has_published = False
                match await consumer.next(MOVE_EVERY_US / 1e6):
                    case Assigned(partitions):
                        mine |= await self._begin(consumer, partitions)
                    case Records(partition, records):
                        has_published = await self._pass(partition, mine[partition], records)
                    case Revoked(partitions):
                        self._progress.left(partitions)
                        for partition in partitions:
                            mine.pop(partition, None)
                if has_published or self._clock.now_us() >= move_at_us:
                    await self._move(mine)
                    move_at_us = self._clock.now_us() + MOVE_EVERY_US

    async def _begin(self, consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, _Place]:
        async with transaction(self._catalog) as connection:
            kept = await positions.read(connection, STAGE, self._log.log_id, TOPICS)
        begun = {partition: kept.get((NO_SLOT, partition), NOWHERE) for partition in partitions}
        for partition, position in begun.items():
            self._progress.started(partition, position.next)
        await consumer.seek({partition: position.next for partition, position in begun.items()})
        return {partition: _Place(position, position) for partition, position in begun.items()}

    async def _pass(self, partition: Partition, place: _Place, records: Sequence[Stored]) -> bool:
        """All conditions of the delivery are confirmed on return; whether there were any, or a record was buried."""
        waiting: list[tuple[Stored, Task]] = []
        source_offset, buried = place.had.source_offset, False
        for stored in without_aliens(partition, records):
            if partition.topic != SILENCE:
                source = source_of(partition, stored)
                if source[0] <= source_offset:
                    continue
                _must_follow(partition, stored, source, source_offset)
                source_offset = source[0]
            try:
                waiting += [(stored, task) for task in await _conditions(partition, stored)]
            except (InvalidArgument, ValueError) as error:
                await self._bury(partition, stored, str(error) or type(error).__name__)
                buried = True
            if partition.topic == SCREENED:
                self._board.show(stored)
        await self._confirm(partition, waiting)
        place.had = Position(records[-1].offset, source_offset)
        place.handled += len(records)
        return bool(waiting) or buried

    async def _confirm(self, partition: Partition, waiting: Sequence[tuple[Stored, Task]]) -> None:
        """All are durable in the high queue on return, handed over about in their order."""
        left = iter(waiting)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(MOST_IN_FLIGHT, len(waiting))):
                tasks.create_task(self._publish(partition, left))

    async def _publish(self, partition: Partition, left: Iterable[tuple[Stored, Task]]) -> None:
        for stored, task in left:
            severity = min(MOST_SEVERE, max(0, task.condition.severity_level))
            try:
                await self._exchange.publish(Priority.HIGH, write_task(task), severity)
            except TooLarge as error:
                await self._bury(partition, stored, f"condition {task.condition.condition_id}: {error.message}")

    async def _bury(self, partition: Partition, stored: Stored, problem: str) -> None:
        """The record stands in `dead` on return."""
        delivery = await self._log.append(Partition(DEAD, partition.number), dead_letter(STAGE, partition, stored, problem))
        await asyncio.shield(delivery)
        _log.warning("conditions cannot be published", problem=problem, offset=stored.offset, **partition._asdict())

    async def _move(self, mine: dict[Partition, _Place]) -> None:
        """The positions of what was passed since the last time, in one transaction."""
        moved = sorted(partition for partition, place in mine.items() if place.had != place.kept)
        if moved:
            async with transaction(self._catalog) as connection:
                for partition in moved:
                    place = mine[partition]
                    await positions.move(connection, STAGE, self._log.log_id, partition, {NO_SLOT: place.kept}, place.had)
        for partition in moved:
            place = mine[partition]
            self._progress.covered(partition, place.had.next, place.handled)
            place.kept, place.handled = place.had, 0
        problem = self._board.problem
        if moved or problem != self._told:
            self._progress.problem = self._told = problem


async def _conditions(partition: Partition, stored: Stored) -> Sequence[Task]:
    """Raises InvalidArgument or ValueError for a record that should have some and cannot be read."""
    if partition.topic == SILENCE:
        return (read_task(stored.record.value),)
    count = read_conditions(stored.record.headers)
    if not count:
        return ()
    value = stored.record.value
    screened = await asyncio.to_thread(read_screened, value) if count >= THREAD_FROM_CONDITIONS else read_screened(value)
    return screened.conditions


def _must_follow(partition: Partition, stored: Stored, source: tuple[int, int], had: int) -> None:
    if source[1] != had:
        where = f"{partition.topic}/{partition.number} offset {stored.offset}"
        raise Fault(f"{where} follows source offset {source[1]}, but {had} was had last: records are missing")
