"""The arrow `count`: what was accepted, refused and given up, from the Log's headers into the ledger of the catalog database."""

from collections import Counter
from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh import ledger, positions
from mesh.codec.log_records import Dead, read_dead
from mesh.codec.stamp import stamp_of
from mesh.errors import InvalidArgument
from mesh.ports import Assigned, Clock, Consumer, Log, Partition, Records, Revoked, Stored
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL, DEAD, REFUSED
from query_svc.fences import Fences

STAGE = "count"
TOPICS = (ACCEPTED, BACKFILL, REFUSED, DEAD)
MOST_KNOWN_HOURS = 10_000
_log = structlog.get_logger()
_Counts = Counter[tuple[str, int, str]]


class Count:
    """Consumes accepted, backfill, refused and dead as a member of the group "count": one catalog transaction per delivery moves
    the position from exactly the value that was read and adds to the ledger. So each record counts once, whatever crashes.

    A dead record counts once per (stage, topic, partition, offset), however often it was buried; its own value is read, since
    that place stands nowhere else. Headers or dead records that cannot be read were written by our own stages: that is
    our fault (law 12), so the worker stops before them, uncommitted, with a Fault that names the place, and the ledger stays
    behind, visibly, rather than wrong. A record without headers (a context) has no readings and counts nothing.

    Between deliveries it lets `fences` go on, so that hours get settled.
    """

    def __init__(self, log: Log, catalog: AsyncEngine, fences: Fences, clock: Clock, progress: Progress) -> None:
        self._log = log
        self._catalog = catalog
        self._fences = fences
        self._clock = clock
        self._progress = progress
        self._hours: set[int] = set()

    async def run(self) -> None:
        """Runs until cancelled, at any moment; any exception means: start again. Raises PositionLost when another worker has
        taken over, Fault for a record that cannot be counted, Unavailable when the database or the Log is away."""
        had: dict[Partition, Position] = {}
        async with self._log.consume(STAGE, TOPICS) as consumer:
            while True:
                match await consumer.next(1.0):
                    case Assigned(partitions):
                        had |= await self._begin(consumer, partitions)
                    case Records(partition, records):
                        had[partition] = await self._add(partition, had[partition], records)
                    case Revoked(partitions):
                        self._progress.left(partitions)
                        for partition in partitions:
                            had.pop(partition, None)
                await self._fences.go_on()

    async def _begin(self, consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, Position]:
        async with transaction(self._catalog) as connection:
            stored = await positions.read(connection, STAGE, self._log.log_id, TOPICS)
        begun = {partition: stored.get((NO_SLOT, partition), NOWHERE) for partition in partitions}
        for partition, position in begun.items():
            self._progress.started(partition, position.next)
        await consumer.seek({partition: position.next for partition, position in begun.items()})
        return begun

    async def _add(self, partition: Partition, had: Position, records: Sequence[Stored]) -> Position:
        """All of the delivery is counted on return."""
        new = [stored for stored in records if stored.offset > had.offset]
        if not new:
            return had
        counts: _Counts = Counter()
        dead: dict[Dead, int] = {}
        for stored in new:
            if partition.topic == DEAD:
                if (letter := _read_dead(partition, stored)) is not None:
                    dead[letter] = stored.appended_at_us
            else:
                counts += _count(partition, stored)
        position = Position(new[-1].offset, -1)
        async with transaction(self._catalog) as connection:
            await positions.move(connection, STAGE, self._log.log_id, partition, {NO_SLOT: had}, position)
            counts += await _bury(connection, dead)
            hours = {hour_us for _, hour_us, _ in counts} - self._hours
            if hours:
                await connection.execute(text(_ENTER_HOURS), {"hours": sorted(hours)})
            await ledger.add(connection, counts)
        self._remember(hours)
        self._progress.covered(partition, position.next, len(new))
        return position

    def _remember(self, hours: set[int]) -> None:
        if len(self._hours) + len(hours) > MOST_KNOWN_HOURS:
            self._hours.clear()
        self._hours |= hours


def _count(partition: Partition, stored: Stored) -> _Counts:
    stamp = stamp_of(partition, stored)
    if partition.topic == REFUSED:
        return Counter({(stamp.gateway_id, stamp.hour_us, ledger.refused(reason)): n for reason, n in stamp.reasons.items()})
    return Counter({(stamp.gateway_id, stamp.hour_us, ledger.ACCEPTED): stamp.count})


def _read_dead(partition: Partition, stored: Stored) -> Dead | None:
    """None: no stage of ours wrote it, so nobody's readings are in it."""
    try:
        return read_dead(stored.record.value)
    except InvalidArgument as error:
        _log.warning("no dead letter, passed by", offset=stored.offset, problem=error.message, **partition._asdict())
        return None


async def _bury(connection: AsyncConnection, dead: Mapping[Dead, int]) -> _Counts:
    """Counts of those that were never counted before."""
    places = {(record.stage, record.topic, record.partition, record.offset): record for record in sorted(dead, key=_place)}
    if not places:
        return Counter()
    stages, topics, numbers, offsets = zip(*places, strict=True)
    columns = {
        "stages": list(stages),
        "topics": list(topics),
        "numbers": list(numbers),
        "offsets": list(offsets),
        "times": [dead[record] for record in places.values()],
    }
    counts: _Counts = Counter()
    for place in await connection.execute(text(_ENTER_DEAD), columns):
        record = places[tuple(place)]
        counts[record.gateway_id, record.hour_us, ledger.dead(record.stage)] += record.reading_count
    return counts


def _place(record: Dead) -> tuple[str, str, int, int]:
    return record.stage, record.topic, record.partition, record.offset


_ENTER_HOURS = """
INSERT INTO hour_fences (hour_us) SELECT hour_us FROM unnest(CAST(:hours AS bigint[])) WITH ORDINALITY AS h (hour_us, place)
ORDER BY place ON CONFLICT DO NOTHING
"""

_ENTER_DEAD = """
INSERT INTO dead_seen (stage, topic, partition, "offset", appended_at_us)
SELECT stage, topic, partition, o, appended_at_us
FROM unnest(CAST(:stages AS text[]), CAST(:topics AS text[]), CAST(:numbers AS int[]), CAST(:offsets AS bigint[]),
            CAST(:times AS bigint[])) WITH ORDINALITY AS d (stage, topic, partition, o, appended_at_us, place)
ORDER BY place ON CONFLICT DO NOTHING RETURNING stage, topic, partition, "offset"
"""
