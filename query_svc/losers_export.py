"""The arrow `export`: readings that lost against another of the same sensor and time, from the shards into objects beside the
manifest, so that a restore elsewhere can leave them out (law 5)."""

from dataclasses import dataclass

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.codec.conflicts import write_conflicts
from mesh.errors import Unavailable
from mesh.ports import Clock, Objects
from mesh.shards import Shards, transaction
from mesh.stages import Progress
from query_svc.tables import VALUE_COLUMNS

MOST_LINES = 10_000
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Cut:
    """The next object of a shard: it has the rows behind (after_by, after_id) up to (cut_by, cut_id); `count` were before."""

    count: int
    after_by: str
    after_id: int
    cut_by: str
    cut_id: int


class LosersExport:
    """Follows `conflicting_readings` of every shard. Each object has the next rows in the order (transaction, id), at most
    10,000, and only of transactions before which none is running: so no row that commits late is ever passed over.

    Where an object ends is stored in its shard before the put, and the position behind it after the put; both never change
    afterwards. So a retry after a crash puts the same object, and two workers do no harm.
    """

    def __init__(
        self, shards: Shards, objects: Objects, log_id: str, clock: Clock, progress: Progress, every_s: float = 10.0
    ) -> None:
        self._shards = shards
        self._objects = objects
        self._log_id = log_id
        self._clock = clock
        self._progress = progress
        self._every_s = every_s

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
        for shard, engine in enumerate(self._shards.engines):
            try:
                while count := await self._export_one(shard, engine):
                    exported += count
            except Unavailable as error:
                problem = f"conflicting readings of shard {shard} are not exported: {error.message}"
                _log.warning("conflicting readings not exported", shard=shard, problem=error.message)
        self._progress.handled_count += exported
        self._progress.problem = problem
        return exported

    async def _export_one(self, shard: int, engine: AsyncEngine) -> int:
        """The next object of a shard is put on return; how many readings it has, 0: there were none."""
        async with transaction(engine) as connection:
            await connection.execute(text(_BEGIN), {"log_id": self._log_id})
            await connection.execute(text(_FIX), {"log_id": self._log_id, "most": MOST_LINES})
            found = (await connection.execute(text(_CUT), {"log_id": self._log_id})).one()
        if found.cut_id is None:
            return 0
        cut = _Cut(*found)
        place = {"log_id": self._log_id, "after_by": cut.after_by, "after_id": cut.after_id}
        place |= {"cut_by": cut.cut_by, "cut_id": cut.cut_id}
        async with transaction(engine) as connection:
            lines = (await connection.execute(text(_LINES), place)).scalars().all()
        await self._objects.put(*write_conflicts(self._log_id, shard, cut.count, lines))
        async with transaction(engine) as connection:
            await connection.execute(text(_PASS), place | {"before": cut.count, "lines": len(lines)})
        return len(lines)


_BEGIN = "INSERT INTO conflicts_exported (log_id) VALUES (:log_id) ON CONFLICT DO NOTHING"

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
