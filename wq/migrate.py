"""`wq migrate`: every database of a deployment on real engines becomes what this version needs, and what is missing is made."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.kafka import KafkaSettings, create_topics
from mesh.clock import SystemClock
from mesh.errors import SetupError, Unavailable, WaterError
from mesh.ports import Clock
from mesh.settings import Settings, read_settings
from mesh.shard_map import ShardMap
from wq.connect import says_errors
from wq.database_url import database_url
from wq.migrations import checks
from wq.migrations.deployment import Wanted, migrate_all, must_be_done
from wq.migrations.look import look_at_all
from wq.migrations.one_database import Outcome, Say
from wq.plain import print_json

_HELP = """Makes every database what this version needs: the catalog, then the shards of its map, four at a time.

A new deployment gets its databases, its shard map and its Kafka topics. Run it once before `wq serve` of a new version. Safe to
run twice, from two hosts at once, and again after it was killed: what is done stays done. Examples:

  wq migrate --config wq.toml

  wq migrate --config wq.toml --check      (only says what it would do)
"""


@says_errors
def migrate(
    config: Annotated[Path | None, typer.Option(help="Settings file, TOML.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 when something is to be done.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Makes every database what this version needs."""
    settings = read_settings(config, {})
    if not settings.on_engines:
        raise SetupError("no engines are configured (--config): the embedded default migrates by itself when `wq up` starts")
    console = Console(stderr=True, soft_wrap=True)

    def say(line: str) -> None:
        if not json:
            console.print(escape(line), highlight=False)

    work = look_at_all(wanted_of(settings)) if check else _everything(settings, SystemClock(), say)
    outcomes = asyncio.run(work)
    if json:
        print_json({"databases": [_plain(outcome) for outcome in outcomes]})
    else:
        _show(outcomes)
    if any(outcome.problem for outcome in outcomes):
        raise typer.Exit(1)


migrate.__doc__ = _HELP


async def bring_up(settings: Settings, clock: Clock | None = None, say: Say = lambda _: None) -> None:
    """Everything that `wq migrate` does. Raises SetupError that lists every problem, Unavailable when all there is is that
    something is away."""
    must_be_done(await _everything(settings, clock or SystemClock(), say))


async def check_deployment(
    catalog: AsyncEngine, settings: Settings, open_shard: Callable[[str], AsyncEngine]
) -> tuple[ShardMap | None, list[str]]:
    """The shard map, and everything about the databases that keeps this version with these settings from working, each with its
    mend. Engines that it opens are closed again. Raises Unavailable when the catalog is away."""
    return await checks.check_deployment(catalog, settings.slots, settings.keep_days, open_shard)


def wanted_of(settings: Settings) -> Wanted:
    """The deployment of these settings."""
    return Wanted(partial(database_url, settings), settings.shards, settings.slots, settings.keep_days)


def kafka_settings(settings: Settings) -> KafkaSettings:
    """The topics of these settings."""
    return KafkaSettings(
        settings.kafka_servers, settings.kafka_prefix, partitions=settings.partitions, replication=settings.kafka_replication
    )


async def _everything(settings: Settings, clock: Clock, say: Say) -> list[Outcome]:
    return [*await migrate_all(wanted_of(settings), clock, say), await _make_topics(settings)]


async def _make_topics(settings: Settings) -> Outcome:
    name = f"Kafka at {settings.kafka_servers}"
    began = asyncio.get_running_loop().time()
    try:
        await create_topics(kafka_settings(settings))
        problem, is_away = "", False
    except WaterError as error:
        problem, is_away = error.message, isinstance(error, Unavailable)
    return Outcome(name, seconds=asyncio.get_running_loop().time() - began, problem=problem, is_away=is_away)


def _plain(outcome: Outcome) -> dict[str, object]:
    return asdict(outcome) | {"seconds": round(outcome.seconds, 3)}


def _show(outcomes: Sequence[Outcome]) -> None:
    table = Table("database", "from", "to", "seconds", "problem", box=None, pad_edge=False)
    for outcome in outcomes:
        row = (outcome.database, outcome.found or "-", outcome.now or "-", f"{outcome.seconds:.1f}", outcome.problem)
        table.add_row(*map(escape, row))
    Console(file=sys.stdout).print(table)
