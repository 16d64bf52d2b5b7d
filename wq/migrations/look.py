"""What would a migration do? Looks at every database and changes nothing."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from mesh.errors import Unavailable, WaterError
from mesh.shard_map import read_map
from query_svc.days_kept import read_kept
from wq.migrations.checks import read_version
from wq.migrations.deployment import AT_ONCE, Wanted, settings_problems
from wq.migrations.history import History, catalog_history, shard_history
from wq.migrations.one_database import Outcome, is_there, opened, shown


async def look_at_all(wanted: Wanted) -> list[Outcome]:
    """The catalog, then every shard of its map (of the settings, where there is no map), four at a time. An outcome has a problem
    where something is to be done, or is wrong; `now` is what a migration would bring it to."""
    catalog = await _look(wanted.url_of(""), catalog_history())
    addresses = wanted.shards
    if not catalog.problem:
        try:
            catalog, addresses = await _settings(catalog, wanted)
        except WaterError as error:
            catalog = replace(catalog, problem=error.message, is_away=isinstance(error, Unavailable))
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(address: str) -> Outcome:
        async with limit:
            return await _look(wanted.url_of(address), shard_history())

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(address)) for address in addresses]
    return [catalog, *(task.result() for task in tasks)]


async def _settings(catalog: Outcome, wanted: Wanted) -> tuple[Outcome, Sequence[str]]:
    """The catalog with what it says to the settings, and the addresses of its shards."""
    async with opened(wanted.url_of("")) as engine:
        found, kept = await read_map(engine), await read_kept(engine)
    if found is None or kept is None:
        return replace(catalog, problem=f"{catalog.database} has no shard map: run wq migrate"), wanted.shards
    problems = settings_problems(found, kept, wanted.slots, wanted.keep_days)
    return replace(catalog, problem="; ".join(problems)), list(found.addresses.values())


async def _look(url: str, history: History) -> Outcome:
    began, name = time.monotonic(), shown(url)
    try:
        if not await is_there(url):
            return Outcome(name, now=history.newest, problem=f"there is no database {name}: run wq migrate")
        async with opened(url) as engine:
            found = await read_version(engine)
        outcome = Outcome(name, found, history.newest, problem=history.problem(name, found))
    except WaterError as error:
        outcome = Outcome(name, problem=error.message, is_away=isinstance(error, Unavailable))
    return replace(outcome, seconds=time.monotonic() - began)
