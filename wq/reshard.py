"""The command `wq reshard`: more or fewer shards, while everything runs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.clock import SystemClock
from mesh.errors import SetupError
from mesh.settings import Settings, read_settings
from mesh.shards import open_engine
from query_svc.reshard.journal import open_journal
from query_svc.reshard.proposal import Proposal, propose
from query_svc.reshard.resharding import Means, Report, Resharding
from query_svc.reshard.throttle import Throttle
from wq.connect import says_errors
from wq.database_url import database_url
from wq.migrations.deployment import prepare_shard
from wq.plain import print_json
from wq.show_reshard import Bars, plain_plan, plain_report, show_plan, show_report

CONNECTIONS = 3
DEFAULT_MB_PER_S = 20.0
_HELP = """Moves slots between shards until there are N with equal numbers of slots, while readings and queries go on.

Shows first what it would move. Needs the catalog's address, and for more shards those of the new ones (a database that is missing
is made). Killed or stopped at any moment, the same command goes on where it was.

Examples:

  wq reshard --to 40 --config wq.toml --plan

  wq reshard --to 40 --config wq.toml --shards postgresql://10.0.0.9:5432/shard_32 --shards ... --yes

  wq reshard --abort --config wq.toml     (puts back what has not gone over yet)
"""


@dataclass(frozen=True, slots=True)
class _Opened:
    """Engines by address, opened when first asked for. The address of the catalog is empty."""

    settings: Settings
    engines: dict[str, AsyncEngine]

    def __call__(self, address: str) -> AsyncEngine:
        if address not in self.engines:
            self.engines[address] = open_engine(database_url(self.settings, address), CONNECTIONS)
        return self.engines[address]


@says_errors
def reshard(
    to: Annotated[int | None, typer.Option("--to", metavar="N", min=1, max=4096, help="How many shards there are to be.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file, TOML.")] = None,
    catalog: Annotated[
        str | None, typer.Option(metavar="URL", help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; better in the settings.")
    ] = None,
    shards: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A new shard: postgresql://HOST:PORT/DATABASE, or the name of a database beside the"
            " catalog; may be repeated. Default: those of the setting shards that are not in use.",
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would move.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="End the resharding that is open: what has gone over stays there.")
    ] = False,
    throttle: Annotated[
        float, typer.Option(metavar="MB/S", min=0, help="Copy at most so much; 0: as fast as it goes.")
    ] = DEFAULT_MB_PER_S,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Longest wait for the export of what a shard has that leaves.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Moves slots between shards."""
    if (to is None) == (not abort):
        raise typer.BadParameter("say how many shards there are to be (--to N), or --abort")
    if as_json and not (yes or plan or abort):
        raise typer.BadParameter("with --json nobody can be asked: add --yes, or --plan")
    settings = _settings(config, catalog)
    if to is None:
        asyncio.run(_abort(settings, throttle, wait, as_json))
    else:
        asyncio.run(_reshard(settings, to, _listed(shards) or settings.shards, _Wishes(plan, yes, throttle, wait, as_json)))


reshard.__doc__ = _HELP


@dataclass(frozen=True, slots=True)
class _Wishes:
    plan: bool
    yes: bool
    mb_per_s: float
    patience_s: float
    as_json: bool


def _settings(config: Path | None, catalog: str | None) -> Settings:
    settings = read_settings(config, {})
    if catalog:
        settings = settings.model_copy(update={"catalog_url": SecretStr(catalog)})
    if not settings.catalog_url.get_secret_value():
        mend = "give --config .engines/wq.toml, or --catalog postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        raise SetupError(f"no catalog_url is set, and the embedded default has two shards for ever: {mend}")
    return settings


def _listed(shards: list[str] | None) -> tuple[str, ...]:
    """Repeated, or with commas between."""
    return tuple(part.strip() for given in shards or () for part in given.split(",") if part.strip())


async def _reshard(settings: Settings, wanted: int, addresses: tuple[str, ...], wishes: _Wishes) -> None:
    async with _opened(settings) as opened:
        proposal = await propose(opened(""), opened, wanted, addresses)
        if wishes.as_json and wishes.plan:
            print_json(plain_plan(proposal, wishes.mb_per_s))
            return
        if not wishes.as_json:
            show_plan(proposal, wishes.mb_per_s)
        if wishes.plan or (proposal.plan is None and not proposal.moves and not proposal.added and not proposal.retiring):
            return
        if not wishes.yes and not _agreed(proposal):
            raise typer.Exit(1)
        async with _working(opened, wishes, proposal) as resharding:
            began = time.monotonic()
            report = await resharding.run(wanted, addresses)
        _tell(report, time.monotonic() - began, wishes.as_json)


async def _abort(settings: Settings, mb_per_s: float, patience_s: float, as_json: bool) -> None:
    async with (
        _opened(settings) as opened,
        _working(opened, _Wishes(False, True, mb_per_s, patience_s, as_json), None) as resharding,
    ):
        began = time.monotonic()
        report = await resharding.abort()
        _tell(report, time.monotonic() - began, as_json)


def _agreed(proposal: Proposal) -> bool:
    """A person typed yes; nobody there is no."""
    console = Console(stderr=True)
    said = console.input(f"Move {len(proposal.left)} slots now? Type yes: ") if console.is_terminal else ""
    if said.strip().lower() == "yes":
        return True
    console.print("nothing was moved; --yes does it without a question", highlight=False)
    return False


def _tell(report: Report, seconds: float, as_json: bool) -> None:
    if as_json:
        print_json(plain_report(report, seconds))
    else:
        show_report(report, seconds)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[_Opened]:
    opened = _Opened(settings, {})
    try:
        yield opened
    finally:
        for engine in opened.engines.values():
            await engine.dispose()


@asynccontextmanager
async def _working(opened: _Opened, wishes: _Wishes, proposal: Proposal | None) -> AsyncIterator[Resharding]:
    clock = SystemClock()
    throttle = Throttle(wishes.mb_per_s * 1e6, clock)
    with Bars(proposal, quiet=wishes.as_json) as bars:
        async with open_journal(opened("")) as journal:
            means = Means(opened(""), opened, _prepare, throttle, clock, bars, wishes.patience_s)
            yield Resharding(journal, means)


async def _prepare(engine: AsyncEngine, _slots: int) -> None:
    await prepare_shard(engine)
