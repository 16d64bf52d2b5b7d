"""How long are readings kept in the shards? Fixed when a deployment is made, and known to its catalog."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.shards import transaction
from query_svc.days_leaves import DaySpan

DAYS_AHEAD = 7
"""Days behind today that have leaves already: so long may whoever makes them be away, but for
as far in the future as readings may be measured."""


@dataclass(frozen=True, slots=True)
class Kept:
    """`keep_days` 0: for ever, and a slot is one table. `first_day` (UTC): what was measured before is never dropped."""

    keep_days: int
    first_day: date

    def new_slot(self, today: date) -> DaySpan | None:
        """The days of a slot that is made today."""
        return DaySpan(self.first_day, today + timedelta(days=DAYS_AHEAD)) if self.keep_days else None


async def read_kept(catalog: AsyncEngine) -> Kept | None:
    """None: the deployment is not made yet. Raises Unavailable."""
    async with transaction(catalog) as connection:
        row = (await connection.execute(text("SELECT keep_days, first_day FROM deployment"))).first()
    return None if row is None else Kept(row.keep_days, row.first_day)


async def fix_kept(catalog: AsyncEngine, keep_days: int, today: date) -> Kept:
    """What is fixed, now or before. Safe to run from several processes. Raises Unavailable."""
    async with transaction(catalog) as connection:
        await connection.execute(text(_FIX), {"keep_days": keep_days, "today": today})
    kept = await read_kept(catalog)
    assert kept is not None
    return kept


def utc_day(at_us: int) -> date:
    """The day (UTC) of a time in microseconds since 1970."""
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).date()


_FIX = "INSERT INTO deployment (keep_days, first_day) VALUES (:keep_days, :today) ON CONFLICT DO NOTHING"
