"""Brings a whole deployment to what this version needs: catalog, shard map, first content, every shard."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc.wiring import create_alert_tables
from archive_svc.wiring import create_archive_tables
from ingest_svc.wiring import create_ingest_tables
from mesh.errors import SetupError, Unavailable, WaterError
from mesh.ports import Clock
from mesh.shard_map import ShardMap, first_map, read_map
from mesh.shards import spread_owner, transaction
from query_svc.catalog_tables import create_tables as create_query_tables
from query_svc.days_kept import Kept, fix_kept, utc_day
from query_svc.days_leaves import create_slot, read_spans
from wq.migrations.history import catalog_history, shard_history
from wq.migrations.one_database import Outcome, Say, is_there, migrate_database, opened, shown

AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """`url_of` an address of the shard map ("" is the catalog), with user and password. `shards`, `slots` and `keep_days` are of
    a new deployment; one that is there has its own, and others are refused."""

    url_of: Callable[[str], str]
    shards: Sequence[str]
    slots: int
    keep_days: int


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A deployment whose catalog is as it should be. `is_used`: readings were accepted."""

    found: ShardMap
    kept: Kept
    is_used: bool


async def migrate_all(wanted: Wanted, clock: Clock, say: Say) -> list[Outcome]:
    """Tries the catalog, then every shard, four at a time. Never raises but when cancelled: each outcome has its problem. Safe to
    repeat, from several hosts at once, and after a kill at any moment."""
    catalog = await migrate_database(wanted.url_of(""), catalog_history(), say)
    if catalog.problem:
        return [catalog]
    try:
        async with opened(wanted.url_of("")) as engine:
            made = await _furnish_catalog(engine, wanted, clock)
    except WaterError as error:
        return [replace(catalog, problem=error.message, is_away=isinstance(error, Unavailable))]
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(shard: int, address: str) -> Outcome:
        async with limit:
            return await _migrate_shard(wanted.url_of(address), made, shard, clock, say)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(*place)) for place in made.found.addresses.items()]
    return [catalog, *(task.result() for task in tasks)]


async def prepare_shard(engine: AsyncEngine) -> None:
    """A database that exists, and is to become a shard, has its tables, without any slot. Safe to repeat. Raises SetupError,
    Unavailable."""
    url = engine.url.render_as_string(hide_password=False)
    must_be_done([await migrate_database(url, shard_history(), lambda _: None)])


def must_be_done(outcomes: Sequence[Outcome]) -> None:
    """Raises SetupError that lists every problem, Unavailable when all there is is that something is away."""
    if failed := [outcome for outcome in outcomes if outcome.problem]:
        message = "; ".join(outcome.problem for outcome in failed)
        raise Unavailable(message) if all(outcome.is_away for outcome in failed) else SetupError(message)


async def _furnish_catalog(catalog: AsyncEngine, wanted: Wanted, clock: Clock) -> _Made:
    """What is fixed for ever, the first map, and what each service has in its tables from the beginning. Raises SetupError where
    the settings differ from what is there, Unavailable."""
    kept = await fix_kept(catalog, wanted.keep_days, utc_day(clock.now_us()))
    found = await read_map(catalog)
    if found is None and not wanted.shards:
        raise SetupError("shards: a new deployment needs at least one, postgresql://HOST:PORT/DATABASE")
    if found is None:
        owner = spread_owner(wanted.slots, len(wanted.shards))
        found = await first_map(catalog, owner, wanted.shards)
    if problems := settings_problems(found, kept, wanted.slots, wanted.keep_days):
        raise SetupError("; ".join(problems))
    await create_query_tables(catalog)
    await create_ingest_tables(catalog)
    await create_alert_tables(catalog, clock)
    await create_archive_tables(catalog)
    async with transaction(catalog) as connection:
        is_used = (await connection.execute(text("SELECT EXISTS (SELECT 1 FROM ledger)"))).scalar_one()
    return _Made(found, kept, bool(is_used))


def settings_problems(found: ShardMap, kept: Kept, slots: int, keep_days: int) -> list[str]:
    """How the settings differ from what was fixed when the deployment was made, and the mend."""
    pairs = (("slots", slots, len(found.owner)), ("keep_days", keep_days, kept.keep_days))
    return [
        f"{name} = {given}, but this deployment was made with {fixed}: set {name} = {fixed}, or restore into a new deployment"
        for name, given, fixed in pairs
        if given != fixed
    ]


async def _migrate_shard(url: str, made: _Made, shard: int, clock: Clock, say: Say) -> Outcome:
    owned = [slot for slot, owner in enumerate(made.found.owner.tolist()) if owner == shard]
    began, name = time.monotonic(), shown(url)
    try:
        if made.is_used and owned and not await _has_readings(url):
            raise SetupError(
                f"shard {shard}, {name}, is empty, but it has {len(owned)} slots and readings were accepted: restore it from a"
                " backup, or correct its address in the table shards of the catalog"
            )
        outcome = await migrate_database(url, shard_history(), say)
        if not outcome.problem:
            async with opened(url) as engine:
                await _furnish_shard(engine, made, owned, clock)
    except WaterError as error:
        outcome = Outcome(name, problem=error.message, is_away=isinstance(error, Unavailable))
    return replace(outcome, seconds=time.monotonic() - began)


async def _has_readings(url: str) -> bool:
    """Whether the table of readings is there, with or without any."""
    if not await is_there(url):
        return False
    async with opened(url) as engine, transaction(engine) as connection:
        return (await connection.execute(text("SELECT to_regclass('sensor_readings') IS NOT NULL"))).scalar_one() is True


async def _furnish_shard(engine: AsyncEngine, made: _Made, owned: Sequence[int], clock: Clock) -> None:
    """A shard that never had a slot has those that the map gives it."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('wq.furnish'))"))
        if await read_spans(connection) or not owned:
            return
        if (await connection.execute(text("SELECT EXISTS (SELECT 1 FROM owned_slots)"))).scalar_one():
            return
        days = made.kept.new_slot(utc_day(clock.now_us()))
        for slot in owned:
            await create_slot(connection, len(made.found.owner), slot, days)
        await connection.execute(text(_OWN), {"slots": owned})


_OWN = "INSERT INTO owned_slots (slot) SELECT unnest(CAST(:slots AS int[]))"
