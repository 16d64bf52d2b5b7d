"""The commands `wq engines ...`: real Kafka, RabbitMQ, PostgreSQL and S3 on this machine."""

import os
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from wq.connect import says_errors
from wq.engines.engine_set import EngineSet, start, stop
from wq.engines.engine_set import Status as EngineStatus
from wq.engines.programs import PROJECT
from wq.engines.starting import Started
from wq.options import AsJson
from wq.plain import print_json
from wq.show import make_table, show

engines = typer.Typer(
    no_args_is_help=True, help="Engines: real Kafka, RabbitMQ, PostgreSQL and S3 on this machine, loopback only; docs/engines.md."
)

Folder = Annotated[
    Path | None,
    typer.Option("--dir", help="Where their data, logs and addresses are. Else WQ_ENGINES, else .engines/ of the project."),
]


@engines.command()
@says_errors
def up(
    brokers: Annotated[int | None, typer.Option(help="Kafka brokers, 1 or 3; fixed at the first start, then 1.")] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="PostgreSQL clusters for shards, beside the catalog's; at first 2. May grow."),
    ] = None,
    databases_per_cluster: Annotated[
        int | None, typer.Option(min=1, max=64, help="Shard databases in each cluster; at first 1. May grow.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Starts what does not run, and says how to use it."""
    place, console, began = _folder(folder), Console(soft_wrap=True), time.monotonic()
    waiting: list[str] = []
    with console.status("looking") as status:

        def told(names: Collection[str]) -> None:
            waiting.extend(names)
            status.update(f"starting {', '.join(waiting)}")

        def tell(started: Started) -> None:
            waiting.remove(started.name)
            status.update(f"starting {', '.join(waiting)}")
            what = "ran already" if started.was_up else f"{started.seconds:.1f} s"
            console.print(f"  [green]up[/]  {started.name:18} {started.address:24} {started.version:20} {what}", highlight=False)

        found = start(place, brokers, shards, databases_per_cluster=databases_per_cluster, told=told, tell=tell)
    console.print(f"everything is up after {time.monotonic() - began:.1f} s; data and logs are in {escape(str(place))}")
    console.print(f"  settings  {escape(str(found.settings_file))} (holds passwords): wq up --config, wq serve --config")
    console.print("  end them  wq engines down")


@engines.command()
@says_errors
def down(folder: Folder = None) -> None:
    """Ends what `up` has started; data and addresses stay."""
    place, console, began = _folder(folder), Console(soft_wrap=True), time.monotonic()
    with console.status("stopping"):
        ended = stop(place, lambda name: console.print(f"  ended  {name}", highlight=False))
    if ended:
        console.print(f"everything has ended after {time.monotonic() - began:.1f} s; the data stays in {escape(str(place))}")
    else:
        console.print(f"no engine of {escape(str(place))} was running")


@engines.command()
@says_errors
def status(folder: Folder = None, json: AsJson = False) -> None:
    """Shows each engine; the exit code is 1 when one does not serve."""
    found = EngineSet(_folder(folder)).statuses()
    if json:
        print_json({"engines": [asdict(each) for each in found]})
    else:
        _show(found)
    if any(each.problem for each in found):
        raise typer.Exit(1)


def _show(found: list[EngineStatus]) -> None:
    table = make_table(["engine", "", "address", "version"], ["process"])
    for each in found:
        state = Text("up", "green") if not each.problem else Text("down", "bold red")
        table.add_row(each.name, state, each.address, each.version, str(each.pid or ""))
    show(table)
    for each in found:
        if each.problem:
            show(Text(f"{each.name} {each.problem}"), *(Text(f"  {line}", "dim") for line in each.said))


def _folder(given: Path | None) -> Path:
    named = given or (Path(value) if (value := os.environ.get("WQ_ENGINES")) else None)
    return Path(os.path.abspath(named or PROJECT / ".engines"))  # noqa: PTH100
