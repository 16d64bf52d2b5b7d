"""How does a shard leave that has no slots any more, so that nothing that it counted or kept is lost or counted twice?"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from psycopg.sql import SQL
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import Unavailable
from mesh.ports import Clock
from mesh.shard_map import change_map, slot_sql
from mesh.shards import transaction
from query_svc.reshard.copying import LONG_STATEMENT, columns_of, copy_query
from query_svc.reshard.journal import PLANNED, Journal, Plan
from query_svc.reshard.throttle import Throttle

LOOK_S = 1.0
SUMS = {"ledger": ("gateway_id, hour_us, measure", ("count",)), "restored_objects": ("path", ("stored", "known"))}
EMPTIED = ("ledger", "restored_objects", "conflicting_readings", "positions", "sensors_seen", "owned_slots")


@dataclass(frozen=True, slots=True)
class Leaving:
    """A shard that leaves. `owner`: the engine of the shard that has a slot now, by slot. `patience_s`: how long to wait for
    others' work on it."""

    shard: int
    engine: AsyncEngine
    owner: Mapping[int, AsyncEngine]
    throttle: Throttle
    clock: Clock
    patience_s: float
    told: Callable[[int], None]


async def wait_exported(leaving: Leaving) -> None:
    """Its conflicting readings are in the archive, and its days that left are dropped. Raises Unavailable (NOT_EXPORTED) when
    that takes longer than the patience."""
    deadline_us = leaving.clock.now_us() + round(leaving.patience_s * 1e6)
    while True:
        async with transaction(leaving.engine) as connection:
            losers = int((await connection.execute(text(_UNEXPORTED))).scalar_one())
            days = int((await connection.execute(text(_DAYS))).scalar_one())
        if not losers and not days:
            return
        if leaving.clock.now_us() >= deadline_us:
            what = f"{losers} conflicting readings are not exported" if losers else f"{days} days that left are not archived"
            where = f"shard {leaving.shard} cannot leave yet: {what}"
            raise Unavailable(
                f"{where}; let `wq serve query` run (roles export and days), then run this again", reason="NOT_EXPORTED"
            )
        await leaving.clock.sleep(LOOK_S)


async def move_losers(leaving: Leaving) -> None:
    """Its conflicting readings are in the shards that have their slots too. Safe to repeat: the key is the place in the log."""
    async with transaction(leaving.engine) as source:
        await source.execute(text(LONG_STATEMENT))
        slots = list((await source.execute(text(_SLOTS_OF_LOSERS.format(slot=slot_sql(len(leaving.owner)))))).scalars())
        columns = [name for name in await columns_of(source, "conflicting_readings") if name not in ("id", "written_by")]
        listed = ", ".join(f'"{name}"' for name in columns)
        for slot in slots:
            async with transaction(leaving.owner[int(slot)]) as target:
                await target.execute(text(LONG_STATEMENT))
                await target.execute(text("CREATE TEMP TABLE came (LIKE conflicting_readings) ON COMMIT DROP"))
                for name in ("id", "written_by"):
                    await target.execute(text(f"ALTER TABLE came DROP COLUMN {name}"))
                where = f"WHERE {slot_sql(len(leaving.owner))} = {slot}"
                query = SQL(f"SELECT {listed} FROM conflicting_readings {where}")
                await copy_query(source, query, target, SQL("came"), columns, leaving.throttle, leaving.told)
                put = f"INSERT INTO conflicting_readings ({listed}) SELECT {listed} FROM came ON CONFLICT DO NOTHING"
                await target.execute(text(put))


async def roll_up(leaving: Leaving, journal: Journal, plan: Plan, before: str, after: str) -> None:
    """What it counted is added to the catalog's own counts, and it is no part of the map, in one transaction of the catalog: a
    sum over catalog and shards of one version has it once. Nobody adds to it any more: it has no slots."""
    async with transaction(leaving.engine) as source, journal.transaction() as catalog:
        for connection in (source, catalog):
            await connection.execute(text(LONG_STATEMENT))
        for table, (key, counts) in SUMS.items():
            columns = await columns_of(source, table)
            listed = ", ".join(columns)
            await catalog.execute(text(f"CREATE TEMP TABLE came_{table} (LIKE {table}) ON COMMIT DROP"))
            query = SQL(f"SELECT {listed} FROM {table}")
            into = SQL(f"came_{table}")
            await copy_query(source, query, catalog, into, columns, leaving.throttle, leaving.told)
            sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in counts)
            put = f"INSERT INTO {table} ({listed}) SELECT {listed} FROM came_{table} ORDER BY {key}"
            await catalog.execute(text(f"{put} ON CONFLICT ({key}) DO UPDATE SET {sums}"))
        await catalog.execute(text("UPDATE shards SET retired = true WHERE shard = :shard"), {"shard": leaving.shard})
        await change_map(catalog)
        await journal.retire_in(catalog, plan, leaving.shard, before, after)


async def empty(leaving: Leaving) -> None:
    """Its tables are empty, so that it counts nothing twice should it ever come back. The database itself stays."""
    async with transaction(leaving.engine) as connection:
        await connection.execute(text("SET LOCAL lock_timeout = 10000"))
        await connection.execute(text(f"TRUNCATE {', '.join(EMPTIED)}"))


RETIRED = "rolled up"
STEPS = ("exported", "losers moved", RETIRED, "emptied")
"""What holds one after the other of a shard that leaves."""


async def retire(leaving: Leaving, journal: Journal, plan: Plan, step: str, reached: Callable[[int, str, str], None]) -> None:
    """The shard has left on return; goes on from the step that it had reached. `reached` is called with the shard, the step and
    `begins`, `done` (not noted yet) or `noted`."""
    works: Mapping[str, Callable[[Leaving], Awaitable[None]]] = {
        "exported": wait_exported,
        "losers moved": move_losers,
        "emptied": empty,
    }
    before = step
    for name in STEPS[0 if step == PLANNED else STEPS.index(step) + 1 :]:
        reached(leaving.shard, name, "begins")
        if name == RETIRED:
            await roll_up(leaving, journal, plan, before, name)
        else:
            await works[name](leaving)
            reached(leaving.shard, name, "done")
            await journal.retired(plan, leaving.shard, before, name)
        reached(leaving.shard, name, "noted")
        before = name


_UNEXPORTED = """
SELECT count(*) FROM conflicting_readings c LEFT JOIN conflicts_exported e ON e.log_id = c.log_id
WHERE e.log_id IS NULL OR (c.written_by, c.id) > (e.written_by, e.id)
"""

_DAYS = "SELECT count(*) FROM days_leaving"

_SLOTS_OF_LOSERS = "SELECT DISTINCT {slot} FROM conflicting_readings"
