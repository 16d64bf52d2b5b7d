"""Which tables is a slot made of? One, or, where days are dropped one day, a leaf `history` and a leaf for each day (UTC).

sensor_readings_s5 is the slot, sensor_readings_s5_history has what was measured before the first day that has a leaf, and
sensor_readings_s5_d20261126 one day. Days follow each other without a hole, so that every reading up to the last day has a leaf.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.topics import SCREENED, SCREENED_BACKFILL

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DaySpan:
    """The days that have leaves, from `first` to `last`, both included; whatever is older is in `history`."""

    first: date
    last: date


def slot_table(slot: int) -> str:
    """The table of a slot."""
    return f"sensor_readings_s{slot}"


def history_leaf(slot: int) -> str:
    """The leaf of everything before the first day."""
    return f"{slot_table(slot)}_history"


def day_leaf(slot: int, day: date) -> str:
    """The leaf of one day."""
    return f"{slot_table(slot)}_d{day:%Y%m%d}"


async def create_slot(connection: AsyncConnection, slots: int, slot: int, days: DaySpan | None) -> None:
    """Makes the slot in this shard unless it is there: one table, or leaves for `days`. Readers and writers of other slots go on
    meanwhile (SHARE UPDATE EXCLUSIVE on sensor_readings). Raises what PostgreSQL does when the slot overlaps with another."""
    table = slot_table(slot)
    if await _is_there(connection, table):
        return
    by_time = " PARTITION BY RANGE (timestamp)" if days else ""
    await connection.execute(text(f"CREATE TABLE {table} (LIKE sensor_readings INCLUDING ALL){by_time}"))
    if days:
        await _create_history(connection, slots, slot, days.first)
        day = days.first
        while day <= days.last:
            await add_day(connection, slot, day)
            day += ONE_DAY
    bounds = f"FOR VALUES WITH (MODULUS {slots}, REMAINDER {slot})"
    await connection.execute(text(f"ALTER TABLE sensor_readings ATTACH PARTITION {table} {bounds}"))


async def read_spans(connection: AsyncConnection) -> dict[int, DaySpan | None]:
    """The days of every slot of this shard; None: the slot is one table."""
    rows = await connection.execute(text(_SPANS))
    return {row.slot: DaySpan(row.first, row.last) if row.first else None for row in rows}


async def add_day(connection: AsyncConnection, slot: int, day: date) -> bool:
    """Makes the leaf of the day behind the slot's last one; False: it was there. Readers and writers of the slot go on meanwhile
    (SHARE UPDATE EXCLUSIVE on the slot): the new table is empty and nobody knows it."""
    leaf = day_leaf(slot, day)
    if await _is_there(connection, leaf):
        return False
    await connection.execute(text(f"CREATE TABLE {leaf} (LIKE sensor_readings INCLUDING ALL)"))
    bounds = f"FOR VALUES FROM ('{_begin(day)}') TO ('{_begin(day + ONE_DAY)}')"
    await connection.execute(text(f"ALTER TABLE {slot_table(slot)} ATTACH PARTITION {leaf} {bounds}"))
    return True


async def prove_history(connection: AsyncConnection, slot: int) -> None:
    """The database knows on return that all of `history` is before its end, so that `let_leave` need not look. Reads all of it,
    once for each day that leaves; readers and writers go on meanwhile."""
    leaf = history_leaf(slot)
    if (await connection.execute(text(_UNPROVEN), {"leaf": leaf})).first():
        await connection.execute(text(f"ALTER TABLE {leaf} VALIDATE CONSTRAINT history_before"))


async def let_leave(connection: AsyncConnection, slot: int, day: date) -> None:
    """The first day of the slot stands alone from the commit on, and `history` ends a day later: what comes late goes there. At
    no moment is there a reading without a leaf. Enters into `days_leaving` how far the slot was recorded when the day left: all
    that is in it came from before. Waits until nobody reads or writes the slot, and lets nobody begin meanwhile: set a
    lock_timeout. `prove_history` comes first."""
    table, leaf, history = slot_table(slot), day_leaf(slot, day), history_leaf(slot)
    await connection.execute(text(f"LOCK TABLE ONLY {table}, ONLY {leaf}, ONLY {history} IN ACCESS EXCLUSIVE MODE"))
    end = _begin(day + ONE_DAY)
    for statement in (
        f"ALTER TABLE {table} DETACH PARTITION {leaf}",
        f"ALTER TABLE {table} DETACH PARTITION {history}",
        f"ALTER TABLE {table} ATTACH PARTITION {history} FOR VALUES FROM (MINVALUE) TO ('{end}')",
        f"ALTER TABLE {history} DROP CONSTRAINT history_before",
        f"ALTER TABLE {history} ADD CONSTRAINT history_before CHECK (timestamp < '{end}') NOT VALID",
    ):
        await connection.execute(text(statement))
    place = {"slot": slot, "day": day, "topics": [SCREENED, SCREENED_BACKFILL]}
    await connection.execute(text(_LEFT), place)


async def drop_left(connection: AsyncConnection, slot: int, day: date) -> None:
    """The readings of a day that has left are gone from the shard. Safe to repeat."""
    place = {"slot": slot, "day": day}
    if (await connection.execute(text("DELETE FROM days_leaving WHERE slot = :slot AND day = :day"), place)).rowcount:
        await connection.execute(text(f"DROP TABLE {day_leaf(slot, day)}"))


async def _create_history(connection: AsyncConnection, slots: int, slot: int, first: date) -> None:
    """With it comes what proves, without a look at its readings, that it may be attached again up to a later day."""
    leaf, end = history_leaf(slot), _begin(first)
    in_slot = f"satisfies_hash_partition('sensor_readings'::regclass::oid, {slots}, {slot}, sensor_id)"
    checks = f"CONSTRAINT history_before CHECK (timestamp < '{end}'), CONSTRAINT history_slot CHECK ({in_slot})"
    await connection.execute(text(f"CREATE TABLE {leaf} (LIKE sensor_readings INCLUDING ALL, {checks})"))
    bounds = f"FOR VALUES FROM (MINVALUE) TO ('{end}')"
    await connection.execute(text(f"ALTER TABLE {slot_table(slot)} ATTACH PARTITION {leaf} {bounds}"))


async def _is_there(connection: AsyncConnection, table: str) -> bool:
    return (await connection.execute(text("SELECT to_regclass(:name)"), {"name": table})).scalar_one() is not None


def _begin(day: date) -> str:
    """As a timestamptz, whatever the time zone of the session."""
    return f"{day:%Y-%m-%d} 00:00+00"


_SPANS = r"""
SELECT CAST(substring(slot.relname FROM '_s(\d+)$') AS int) AS slot,
       CAST(min(substring(leaf.relname FROM '_d(\d{8})$')) AS date) AS first,
       CAST(max(substring(leaf.relname FROM '_d(\d{8})$')) AS date) AS last
FROM pg_inherits s JOIN pg_class slot ON slot.oid = s.inhrelid
LEFT JOIN (pg_inherits l JOIN pg_class leaf ON leaf.oid = l.inhrelid) ON l.inhparent = slot.oid
WHERE s.inhparent = CAST('sensor_readings' AS regclass) GROUP BY 1 ORDER BY 1
"""

_UNPROVEN = """
SELECT 1 FROM pg_constraint WHERE conrelid = CAST(:leaf AS regclass) AND conname = 'history_before' AND NOT convalidated
"""

_LEFT = """
INSERT INTO days_leaving (slot, day, passed)
SELECT :slot, :day, coalesce(jsonb_agg(jsonb_build_array(log_id, topic, partition, "offset") ORDER BY topic, partition), '[]')
FROM positions WHERE stage = 'record' AND slot = :slot AND topic = ANY(CAST(:topics AS text[]))
"""
