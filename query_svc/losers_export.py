"""The arrow `export`: readings that lost against another of the same sensor and time, from the shards into objects beside the
manifest, so that a restore elsewhere can leave them out (law 5)."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import positions
from mesh.codec.conflicts import MOST_LINES, conflicts_folder, read_conflicts_path, write_conflicts
from mesh.codec.conflicts_told import Told, is_told, read_told, told_folder, write_told
from mesh.errors import InvalidArgument, NotFound, Unavailable
from mesh.ports import Clock, Objects, Partition
from mesh.positions import Position
from mesh.shards import AnyShards, Shards, transaction
from mesh.stages import Progress
from query_svc.record import STAGE as RECORD
from query_svc.record import TOPICS
from query_svc.tables import VALUE_COLUMNS

WITHIN_S = 10.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Cut:
    """The next object of a shard: it has the rows behind (after_by, after_id) up to (cut_by, cut_id); `count` were before."""

    count: int
    after_by: str
    after_id: int
    cut_by: str
    cut_id: int


@dataclass(frozen=True, slots=True)
class _Recorded:
    """How far every slot was recorded at a moment, and the last row that a shard had then."""

    until: Mapping[tuple[str, int], int]
    by: str
    id: int


class LosersExport:
    """Follows `conflicting_readings` of every shard. Each object has the next rows in the order (transaction, id), at most
    10,000, and only of transactions before which none is running: so no row that commits late is ever passed over.

    Where an object ends is stored in its shard before the put, and the position behind it after the put; both never change
    afterwards. So a retry after a crash puts the same object, and two workers do no harm. A shard that was lost and made anew
    goes on behind the lines that its objects have.

    Then it tells, in an object beside those, how far they tell everything: up to where every shard had recorded before the last
    of them was cut. By that a restore knows whether the losers of an object are known. What a shard told that has left the map
    is taken away: it left only when all that it had was exported (query_svc/reshard/retiring.py), and would hold back the others.
    """

    def __init__(
        self, shards: AnyShards, objects: Objects, log_id: str, clock: Clock, progress: Progress, every_s: float = 5.0
    ) -> None:
        self._shards = shards
        self._objects = objects
        self._log_id = log_id
        self._clock = clock
        self._progress = progress
        self._every_s = every_s
        self._told: dict[int, str] = {}
        self._swept = -1

    async def run(self) -> None:
        """Exports what is there every `every_s`, until cancelled, at any moment. A shard that is away is left for later; any
        other exception means: start again."""
        while True:
            await self.export()
            await self._clock.sleep(self._every_s)

    async def export(self) -> int:
        """Everything that was committed in the shards that are there is in objects on return, unless an older transaction was
        still running; how many readings that were."""
        exported, problem = 0, ""
        shards = self._shards.now
        until = await self._recorded_everywhere(shards)
        for shard, engine in shards.engines.items():
            try:
                newest = await self._newest(engine)
                while count := await self._export_one(shard, engine):
                    exported += count
                if until is not None:
                    await self._tell(shards, shard, engine, _Recorded(until, *newest))
            except Unavailable as error:
                problem = f"conflicting readings of shard {shard} are not exported: {error.message}"
                _log.warning("conflicting readings not exported", shard=shard, problem=error.message)
        if shards.version != self._swept and until is not None:
            await self._forget_gone()
            self._swept = shards.version
        self._progress.handled_count += exported
        self._progress.problem = problem
        return exported

    async def _forget_gone(self) -> None:
        """Once for each version of the map. Listed first: what a shard told that came to the map meanwhile is not among them."""
        folder = conflicts_folder(self._log_id)
        told = [path async for path in self._objects.list(folder) if is_told(path)]
        shards = await self._shards.newer()
        for path in told:
            if int(path.removeprefix(folder).split("/")[0]) not in shards.engines:
                await self._objects.delete(path)

    async def _export_one(self, shard: int, engine: AsyncEngine) -> int:
        """The next object of a shard is put on return; how many readings it has, 0: there were none."""
        await self._begin(shard, engine)
        async with transaction(engine, WITHIN_S) as connection:
            await connection.execute(text(_FIX), {"log_id": self._log_id, "most": MOST_LINES})
            found = (await connection.execute(text(_CUT), {"log_id": self._log_id})).one()
        if found.cut_id is None:
            return 0
        cut = _Cut(*found)
        place = {"log_id": self._log_id, "after_by": cut.after_by, "after_id": cut.after_id}
        place |= {"cut_by": cut.cut_by, "cut_id": cut.cut_id}
        async with transaction(engine, WITHIN_S) as connection:
            lines = (await connection.execute(text(_LINES), place)).scalars().all()
        await self._objects.put(*write_conflicts(self._log_id, shard, cut.count, lines))
        async with transaction(engine, WITHIN_S) as connection:
            await connection.execute(text(_PASS), place | {"before": cut.count, "lines": len(lines)})
        return len(lines)

    async def _begin(self, shard: int, engine: AsyncEngine) -> None:
        """The shard has a position on return: at first none of its rows is exported, but objects may be there."""
        async with transaction(engine, WITHIN_S) as connection:
            if (await connection.execute(text(_BEGUN), {"log_id": self._log_id})).first():
                return
        count = 0
        async for path in self._objects.list(f"{conflicts_folder(self._log_id)}{shard}/"):
            of = read_conflicts_path(path)
            count = max(count, of.first + of.count) if of else count
        async with transaction(engine, WITHIN_S) as connection:
            await connection.execute(text(_BEGIN), {"log_id": self._log_id, "count": count})

    async def _recorded_everywhere(self, shards: Shards) -> dict[tuple[str, int], int] | None:
        """How far every slot of every shard was recorded; None: a shard is away, nobody knows. Not only those of one shard: a
        slot that comes there later, and is behind, may bring losers of which it would have told already."""

        async def one(shard: int, engine: AsyncEngine) -> dict[Partition, Position]:
            async with transaction(engine, WITHIN_S) as connection:
                slots = shards.slots_of_shard(shard)
                return await positions.lowest(connection, RECORD, self._log_id, TOPICS, slots)

        try:
            found = await shards.gather(one, shards.owning)
        except Unavailable:
            return None
        everywhere = set.intersection(*(set(of) for of in found))
        return {(place.topic, place.number): min(of[place].offset for of in found) for place in everywhere}

    async def _newest(self, engine: AsyncEngine) -> tuple[str, int]:
        async with transaction(engine, WITHIN_S) as connection:
            newest = (await connection.execute(text(_NEWEST), {"log_id": self._log_id})).first()
        return (str(newest[0]), int(newest[1])) if newest else ("0", 0)

    async def _tell(self, shards: Shards, shard: int, engine: AsyncEngine, recorded: _Recorded) -> None:
        """What was recorded before the export began is told of on return, unless rows of it could not be exported yet."""
        place = {"log_id": self._log_id, "by": recorded.by, "id": recorded.id}
        async with transaction(engine, WITHIN_S) as connection:
            count = (await connection.execute(text(_EXPORTED), place)).scalar_one_or_none()
        if count is None:
            return
        told = Told(self._log_id, shard, len(shards.engines), count, recorded.until)
        path, content = write_told(told)
        if self._told.get(shard) == path:
            return
        await self._objects.put(path, content)
        async for other in self._objects.list(told_folder(self._log_id, shard)):
            with suppress(NotFound, InvalidArgument):
                if other != path and read_told(other, await self._objects.get(other)).says_no_more_than(told):
                    await self._objects.delete(other)
        self._told[shard] = path


_BEGUN = "SELECT 1 FROM conflicts_exported WHERE log_id = :log_id"

_BEGIN = "INSERT INTO conflicts_exported (log_id, count) VALUES (:log_id, :count) ON CONFLICT DO NOTHING"

_NEWEST = """
SELECT CAST(written_by AS text), id FROM conflicting_readings WHERE log_id = :log_id ORDER BY written_by DESC, id DESC LIMIT 1
"""

_EXPORTED = """
SELECT count FROM conflicts_exported
WHERE log_id = :log_id AND (written_by, id) >= (CAST(CAST(:by AS text) AS xid8), CAST(:id AS bigint))
"""

_FIX = """
UPDATE conflicts_exported AS e SET (cut_by, cut_id) = (
    SELECT written_by, id FROM (
        SELECT written_by, id FROM conflicting_readings
        WHERE log_id = :log_id AND (written_by, id) > (e.written_by, e.id)
          AND written_by < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY written_by, id LIMIT :most) AS next
    ORDER BY written_by DESC, id DESC LIMIT 1)
WHERE log_id = :log_id AND cut_id IS NULL
"""

_CUT = """
SELECT count, CAST(written_by AS text), id, CAST(cut_by AS text), cut_id FROM conflicts_exported WHERE log_id = :log_id
"""

_LINES = f"""
SELECT CAST(json_strip_nulls(row_to_json(line)) AS text) FROM (
    SELECT sensor_id, to_char(timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS timestamp,
           {", ".join(VALUE_COLUMNS)}, region, flags, topic, partition, "offset", index
    FROM conflicting_readings
    WHERE log_id = :log_id AND (written_by, id) > (CAST(CAST(:after_by AS text) AS xid8), :after_id)
      AND (written_by, id) <= (CAST(CAST(:cut_by AS text) AS xid8), :cut_id)
    ORDER BY written_by, id) AS line
"""

_PASS = """
UPDATE conflicts_exported SET count = count + :lines, written_by = cut_by, id = cut_id, cut_by = NULL, cut_id = NULL
WHERE log_id = :log_id AND count = :before AND cut_id = :cut_id
"""
