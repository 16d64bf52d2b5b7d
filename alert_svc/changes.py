"""Which alerts have changed since the last look, whoever changed them, in whatever process?

A look is a snapshot of PostgreSQL. Each row says which transaction wrote it last; new is what the last look could not see. So no
change is missed because it was committed late, as with a counter, and nobody waits for a counter's lock.
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc.alert_rows import alert_of
from mesh.codec.alerts import Alert
from mesh.shards import transaction


@dataclass(frozen=True, slots=True)
class Look:
    """Up to a page of alerts as they are now, and how to go on. `done`: there was no more to see."""

    alerts: tuple[Alert, ...]
    next: "Place"
    done: bool


@dataclass(frozen=True, slots=True)
class Place:
    """After which snapshot we look; and while a look takes several pages, up to which, and after which row."""

    seen: str
    until: str = ""
    writer: str = "0"
    alert_id: int = 0


async def begin(engine: AsyncEngine) -> Place:
    """From now on. Raises Unavailable."""
    async with transaction(engine) as connection:
        return Place(str((await connection.execute(_NOW)).scalar_one()))


async def look(engine: AsyncEngine, place: Place, historical: bool, limit: int) -> Look:
    """What changed since the place; alerts of backfill only where `historical`. An alert that changes between two pages comes
    with the next look. Raises Unavailable."""
    asked = {
        "seen": place.seen,
        "until": place.until,
        "writer": place.writer,
        "alert_id": place.alert_id,
        "historical": historical,
        "limit": limit,
    }
    async with transaction(engine) as connection:
        rows = (await connection.execute(_CHANGED, asked)).all()
    until = str(rows[0].until)
    alerts = tuple(alert_of(row.alert) for row in rows if row.alert is not None)
    if len(alerts) < limit:
        return Look(alerts, Place(until), done=True)
    return Look(alerts, Place(place.seen, until, str(rows[-1].writer), alerts[-1].alert_id), done=False)


_NOW = text("SELECT CAST(pg_current_snapshot() AS text)")
# Planned anew each time: a plan that was kept from when the table was small would read all of it when it is large.
_CHANGED = text(
    """
WITH s AS MATERIALIZED (
    SELECT CAST(:seen AS pg_snapshot) AS seen, coalesce(CAST(nullif(:until, '') AS pg_snapshot), pg_current_snapshot()) AS until
), a AS (
    SELECT a.*
    FROM alert.contamination_alerts AS a
    WHERE written_by >= (SELECT pg_snapshot_xmin(seen) FROM s)
        AND (written_by, alert_id) > (CAST(:writer AS xid8), :alert_id)
        AND NOT pg_visible_in_snapshot(written_by, (SELECT seen FROM s))
        AND pg_visible_in_snapshot(written_by, (SELECT until FROM s))
        AND (NOT historical OR :historical)
    ORDER BY written_by, alert_id LIMIT :limit
)
SELECT CAST(s.until AS text) AS until, to_jsonb(a) AS alert, CAST(a.written_by AS text) AS writer,
    set_config('plan_cache_mode', 'force_custom_plan', false)
FROM s LEFT JOIN a ON true
ORDER BY a.written_by, a.alert_id
"""
)
