"""Is a deployment as this version needs it? Asked by every process before it serves: one small query per database."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import Unavailable
from mesh.shard_map import ShardMap, read_map
from mesh.shards import MOST_AT_ONCE, Shards, transaction
from query_svc.days_kept import read_kept
from wq.migrations.deployment import settings_problems
from wq.migrations.history import VERSION_TABLE, History, catalog_history, shard_history
from wq.migrations.one_database import is_there, shown

MOVING_S = 1.0
_LOOKS = 3
_NO_TABLE = "42P01"
_log = structlog.get_logger()

CheckShard = Callable[[int, AsyncEngine], Awaitable[list[str]]]


async def check_schema(catalog: AsyncEngine, shards: Shards) -> list[str]:
    """Which databases are behind or ahead of this version, or were never made, each with the mend. A shard that is away is no
    problem: the others go on (law 13). Raises Unavailable when the catalog is away."""

    async def check(shard: int, engine: AsyncEngine) -> list[str]:
        return await _check_version(engine, shard_history(), f"shard {shard}, {_name(engine)},")

    return await _check_version(catalog, catalog_history(), f"the catalog {_name(catalog)}") + await _of_all(shards, check)


async def check_shards(catalog: AsyncEngine, shards: Shards) -> list[str]:
    """Which shards are not those that the map means: a slot of another shard, one too few, another number of slots. What is being
    resharded is looked past. Raises Unavailable when the catalog is away."""
    problems: list[str] = []
    for look in range(_LOOKS):
        if look:
            await asyncio.sleep(MOVING_S)  # a slot that was just handed over
        moving, found = await _moving(catalog), await read_map(catalog)
        if found is None:
            return ["the catalog has no shard map: run wq migrate"]

        async def check(shard: int, engine: AsyncEngine, newest: ShardMap = found, aside: frozenset[int] = moving) -> list[str]:
            return await _check_slots(shard, engine, newest, aside)

        problems = await _of_all(shards, check)
        if not problems:
            break
    return problems


async def check_deployment(
    catalog: AsyncEngine, slots: int, keep_days: int, open_shard: Callable[[str], AsyncEngine]
) -> tuple[ShardMap | None, list[str]]:
    """The shard map, and everything that keeps this version with these settings from working on the deployment, each with its
    mend; None: there is no map to be read. Raises Unavailable when the catalog is away."""
    if problems := await _check_version(catalog, catalog_history(), f"the catalog {_name(catalog)}"):
        return None, problems
    found, kept = await read_map(catalog), await read_kept(catalog)
    if found is None or kept is None:
        return None, [f"the catalog {_name(catalog)} has no shard map: run wq migrate"]
    shards = Shards(found.owner, {shard: open_shard(address) for shard, address in found.addresses.items()}, found.version)
    try:
        problems = settings_problems(found, kept, slots, keep_days) + await check_schema(catalog, shards)
        return found, problems or await check_shards(catalog, shards)
    finally:
        for engine in shards.engines.values():
            await engine.dispose()


async def _of_all(shards: Shards, check: CheckShard) -> list[str]:
    """What each shard says, eight at a time; one that is away says nothing, one that does not exist says that."""
    limit = asyncio.Semaphore(MOST_AT_ONCE)

    async def one(shard: int, engine: AsyncEngine) -> list[str]:
        async with limit:
            try:
                return await check(shard, engine)
            except Unavailable as error:
                return await _if_missing(shard, engine, error)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(*place)) for place in shards.engines.items()]
    return [problem for task in tasks for problem in task.result()]


async def _if_missing(shard: int, engine: AsyncEngine, error: Unavailable) -> list[str]:
    try:
        if not await is_there(engine.url.render_as_string(hide_password=False)):
            mend = (
                "make it with wq migrate when it is new, restore it from a backup when it was lost, or correct the table shards"
            )
            return [f"the map names shard {shard}, {_name(engine)}, and there is no such database: {mend}"]
    except Unavailable:
        pass
    _log.warning("a shard is away, the others go on", shard=shard, problem=error.message)
    return []


async def _check_version(engine: AsyncEngine, history: History, name: str) -> list[str]:
    problem = history.problem(name, await read_version(engine))
    return [problem] if problem else []


async def read_version(engine: AsyncEngine) -> str:
    """The revision that a database is at; empty: it was never migrated. Raises Unavailable."""
    try:
        async with transaction(engine) as connection:
            return str((await connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))).scalar_one_or_none() or "")
    except exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _NO_TABLE:
            raise
        return ""


async def _moving(catalog: AsyncEngine) -> frozenset[int]:
    """The slots that a resharding has planned to move and has not ended with."""
    async with transaction(catalog) as connection:
        if (await connection.execute(text("SELECT to_regclass('slot_moves')"))).scalar_one() is None:
            return frozenset()
        return frozenset((await connection.execute(text(_MOVING))).scalars())


async def _check_slots(shard: int, engine: AsyncEngine, found: ShardMap, aside: frozenset[int]) -> list[str]:
    async with transaction(engine) as connection:
        row = (await connection.execute(text(_SLOTS))).one()
    name = f"shard {shard}, {_name(engine)},"
    if row.modulus is not None and row.modulus != len(found.owner):
        return [f"{name} was made with {row.modulus} slots, the map has {len(found.owner)}: it is of another deployment"]
    given = {slot for slot, owner in enumerate(found.owner.tolist()) if owner == shard} - aside
    owned, tables = set(row.owned or ()) - aside, set(row.tables or ())
    mend = "correct its address in the table shards of the catalog, or restore it from a backup"
    problems = []
    if foreign := sorted(owned - given):
        problems.append(f"{name} has {_slots(foreign)} that the map gives to another shard: {mend}")
    if missing := sorted(given - owned):
        problems.append(f"{name} has not {_slots(missing)} that the map gives it: {mend}")
    if without := sorted(owned - tables):
        problems.append(f"{name} has no table sensor_readings_s{without[0]} for {_slots(without)}: restore it from a backup")
    return problems


def _slots(slots: list[int]) -> str:
    shown_slots = ", ".join(map(str, slots[:5]))
    return f"the slot{'s' if len(slots) > 1 else ''} {shown_slots}{f' and {len(slots) - 5} more' if len(slots) > 5 else ''}"


def _name(engine: AsyncEngine) -> str:
    return shown(engine.url.render_as_string(hide_password=False))


_MOVING = "SELECT slot FROM slot_moves JOIN reshardings USING (number) WHERE ended_at IS NULL"

_SLOTS = r"""
WITH leaves AS (
    SELECT CAST(substring(leaf.relname FROM '_s(\d+)$') AS int) AS slot,
           CAST(substring(pg_get_expr(leaf.relpartbound, leaf.oid) FROM 'modulus (\d+)') AS int) AS modulus
    FROM pg_inherits i JOIN pg_class leaf ON leaf.oid = i.inhrelid WHERE i.inhparent = to_regclass('sensor_readings'))
SELECT (SELECT array_agg(slot) FROM owned_slots) AS owned, (SELECT array_agg(slot) FROM leaves) AS tables,
       (SELECT min(modulus) FROM leaves) AS modulus
"""
