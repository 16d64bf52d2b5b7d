"""The arrow `sight`: sensors that nobody described, from screened and restored records into the catalog when first seen."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh import positions
from mesh.aliens import without_aliens
from mesh.codec.log_records import read_screened
from mesh.codec.restored_records import read_restored
from mesh.codec.stamp import source_of
from mesh.errors import Fault, InvalidArgument
from mesh.ports import Assigned, Consumer, Log, Partition, Records, Revoked, Stored
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import RESTORED, SCREENED, SCREENED_BACKFILL
from query_svc.known_sensors import Known, SeenSensors, seen
from water.readings import Readings, concatenate

STAGE = "sight"
TOPICS = (SCREENED, SCREENED_BACKFILL, RESTORED)


class Sight:
    """Consumes `screened`, `screened_backfill` and `restored` as a member of the group "sight": one catalog transaction per
    delivery moves the position from exactly the value that was read and enters the sensors that are new, with the parameters
    seen.

    What a person described is left alone. No context changes. A record that cannot be read has nothing to enter: giving it
    up is the recorder's business.
    """

    def __init__(self, log: Log, catalog: AsyncEngine, progress: Progress) -> None:
        self._log = log
        self._catalog = catalog
        self._progress = progress
        self._known = Known()

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Fault at a hole in the screened records, Unavailable when the database or the Log is away."""
        had: dict[Partition, Position] = {}
        async with self._log.consume(STAGE, TOPICS) as consumer:
            while True:
                match await consumer.next(1.0):
                    case Assigned(partitions):
                        had |= await self._begin(consumer, partitions)
                    case Records(partition, records):
                        had[partition] = await self._enter(partition, had[partition], records)
                    case Revoked(partitions):
                        self._progress.left(partitions)
                        for partition in partitions:
                            had.pop(partition, None)

    async def _begin(self, consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, Position]:
        async with transaction(self._catalog) as connection:
            stored = await positions.read(connection, STAGE, self._log.log_id, TOPICS)
        begun = {partition: stored.get((NO_SLOT, partition), NOWHERE) for partition in partitions}
        for partition, position in begun.items():
            self._progress.started(partition, position.next)
        await consumer.seek({partition: position.next for partition, position in begun.items()})
        return begun

    async def _enter(self, partition: Partition, had: Position, records: Sequence[Stored]) -> Position:
        """The sensors of the delivery are entered on return."""
        readings = []
        source_offset = had.source_offset
        for stored in without_aliens(partition, records):
            if partition.topic == RESTORED:
                readings.append(_read_restored(stored))
                continue
            found, (source, previous) = _read(partition, stored)
            if source <= source_offset:
                continue
            if previous != source_offset:
                where = f"{partition.topic}/{partition.number} offset {stored.offset}"
                raise Fault(f"{where} follows source offset {previous}, but {source_offset} was had last: records are missing")
            source_offset = source
            readings.append(found)
        new = Position(records[-1].offset, source_offset)
        fresh = self._known.news(seen(readings))
        async with transaction(self._catalog) as connection:
            await positions.move(connection, STAGE, self._log.log_id, partition, {NO_SLOT: had}, new)
            if len(fresh):
                await _store(connection, fresh)
        self._known.add(fresh)
        self._progress.covered(partition, new.next, len(records))
        return new


def _read(partition: Partition, stored: Stored) -> tuple[Readings, tuple[int, int]]:
    try:
        screened = read_screened(stored.record.value)
        return screened.readings, (screened.source_offset, screened.previous_source_offset)
    except InvalidArgument:
        return concatenate([]), source_of(partition, stored)


def _read_restored(stored: Stored) -> Readings:
    try:
        return read_restored(stored.record.value).readings
    except InvalidArgument:
        return concatenate([])


async def _store(connection: AsyncConnection, fresh: SeenSensors) -> None:
    await connection.execute(text(_ENTER), {"sensors": fresh.sensor_id.tolist(), "parameters": fresh.parameters.tolist()})


_ENTER = """
INSERT INTO catalog.sensors (sensor_id, parameters, first_sight)
SELECT sensor_id, parameters, true
FROM unnest(CAST(:sensors AS bigint[]), CAST(:parameters AS int[])) WITH ORDINALITY AS s (sensor_id, parameters, place)
ORDER BY place
ON CONFLICT (sensor_id) DO UPDATE SET parameters = sensors.parameters | excluded.parameters, revision = sensors.revision + 1
WHERE sensors.first_sight AND sensors.parameters | excluded.parameters <> sensors.parameters
"""
