"""`wq up`: starts everything in one process, shows what it does, and drains on Ctrl-C."""

import asyncio
import gc
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn, TextIO, cast

import typer
import uvloop
from rich.console import Console
from rich.markup import escape

from mesh.adapters.embedded_postgres import end_server
from mesh.clock import SystemClock
from mesh.errors import SetupError, Unavailable
from mesh.logs import setup_logs
from mesh.run import stop_on_signals
from mesh.settings import Settings, read_settings
from wq.connect import find_target, says_errors
from wq.data_directory import default_path, open_data_directory
from wq.demo import Demo, stream_fleet
from wq.embedded import WORKER, embedded_ground
from wq.live import PresentStderr, Totals, on_one_line, read_totals, show_live
from wq.plain import print_json
from wq.system import System, running_system

SWITCH_S = 0.0005  # the loop, which carries alarms, gets the interpreter back from threads that pack and decode ten times sooner

_EXAMPLES = """Starts the whole mesh in this process, on an embedded PostgreSQL, with a simulated fleet that streams to it.

Examples:

  wq up

  wq up --demo contamination

  wq up --data ./my-data --no-fleet --grpc-port 6000

  WQ_LOG_LEVEL=debug wq up --config site.toml

  wq engines up; wq up --engines

Settings come from --config (TOML), then the environment (WQ_...), then flags; docs/settings.md lists them. Ctrl-C drains.
"""


@says_errors
def up(
    data: Annotated[
        Path | None, typer.Option(help="Data directory; made when missing. Else WQ_DATA, else your data folder.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Port of the gRPC services; 0 takes a free one.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of the metrics page; 0 takes a free one.")] = None,
    web_port: Annotated[int | None, typer.Option(help="Port of the dashboard; 0 takes a free one.")] = None,
    fleet: Annotated[bool, typer.Option("--fleet/--no-fleet", help="Simulate a fleet that streams.")] = True,
    demo: Annotated[Demo, typer.Option(help="What happens to the fleet meanwhile.")] = Demo.TOUR,
    config: Annotated[Path | None, typer.Option(help="Settings file, TOML.")] = None,
    engines: Annotated[
        bool, typer.Option("--engines", help="On Kafka, RabbitMQ, PostgreSQL and S3, as `wq engines up` has started them.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="At the end, one JSON object with the totals on stdout.")] = False,
) -> None:
    """Starts everything."""
    flags = {"host": host, "grpc_port": grpc_port, "http_port": http_port, "web_port": web_port}
    settings = read_settings(config or (engines_file() if engines else None), flags)
    setup_logs(settings.log_level, cast("TextIO", PresentStderr()))
    sys.setswitchinterval(SWITCH_S)
    console = Console(stderr=json, soft_wrap=True)
    shown = demo if fleet else None
    if settings.on_engines:
        totals = uvloop.run(_up_on_engines(settings, data, shown, console))
    else:
        totals = uvloop.run(_up(settings, data or default_path(), shown, console))
    if json:
        print_json({f"{name}_count": getattr(totals, name) for name in Totals.__slots__})


up.__doc__ = _EXAMPLES


async def _up(settings: Settings, path: Path, demo: Demo | None, console: Console) -> Totals:
    stop = asyncio.Event()
    with (
        stop_on_signals(stop, lambda: _end_at_once(path, console)),
        open_data_directory(path, settings.slots, settings.partitions) as data,
    ):
        console.print(
            f"[bold]Water Quality Mesh[/] on the embedded default: one process, its own PostgreSQL, data in {escape(str(path))}"
        )
        clock = SystemClock()
        make = partial(embedded_ground, settings=settings, data=data, clock=clock)
        async with running_system(settings, make, clock, WORKER, data.endpoint) as system:
            _say_where(system, data.path, not data.is_new, console)
            return await _serve(system, settings, demo, console, stop, data.path)


async def _up_on_engines(settings: Settings, path: Path | None, demo: Demo | None, console: Console) -> Totals:
    from wq.ground_engines import engines_ground  # four drivers that the embedded default does not need

    stop, clock = asyncio.Event(), SystemClock()
    where = on_one_line(f"{settings.kafka_servers} and {len(settings.shards)} shards")
    with stop_on_signals(stop):
        console.print(f"[bold]Water Quality Mesh[/] on real engines: one process, Kafka at {escape(where)}")
        make = partial(engines_ground, settings=settings, clock=clock, migrates=True)
        endpoint = await asyncio.to_thread(_endpoint_in, path) if path else None
        async with running_system(settings, make, clock, "up", endpoint) as system:
            _say_where(system, None, False, console)
            return await _serve(system, settings, demo, console, stop, None)


async def _serve(
    system: System, settings: Settings, demo: Demo | None, console: Console, stop: asyncio.Event, path: Path | None
) -> Totals:
    gc.collect()
    gc.freeze()  # what start-up made stays: to look through all of it again and again holds every alarm up for 100 ms
    await _until_stopped(system, settings, demo, console, stop)
    console.print("stopping: streams and stages finish ... (Ctrl-C again ends at once)")
    caught_up = await system.drain(settings.drain_s)
    try:
        totals = await read_totals(system)
    except Unavailable as error:
        problem = on_one_line(system.ground.database.problem or error.message)
        console.print(f"[red]stopped, but what was stored cannot be told: {escape(problem)}[/]")
        console.print("nothing acknowledged is lost: the next start goes on")
        raise typer.Exit(1) from None
    _say_what_was_stored(totals, caught_up, path, console)
    return totals


def _endpoint_in(path: Path) -> Path:
    """On real engines the data directory only says where the mesh listens. Raises SetupError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"--data {path}: {error.strerror}; leave it out, or choose another directory") from None
    return path / "endpoint.json"


def _end_at_once(path: Path, console: Console) -> NoReturn:
    """Whatever the loop does. The database is told to end at once, too: it recovers at the next start, as after a kill."""
    end_server(path / "postgres")
    show_cursor = "\x1b[?25h" if console.is_terminal else ""
    os.write(2, f"{show_cursor}ended at once: the next start goes on in {path}, nothing acknowledged is lost\n".encode())
    os._exit(130)


def _say_where(system: System, path: Path | None, is_old: bool, console: Console) -> None:
    again = " (going on with what is there)" if is_old else ""
    console.print(f"  page     http://{system.page_address}")
    console.print(f"  gRPC     {system.target}")
    console.print(f"  metrics  http://{system.metrics_address}/metrics")
    if path is not None:
        console.print(f"  data     {escape(str(path))}{again}")
    if find_target(None) != system.target:
        console.print(f"  there    export WQ_TARGET={system.target}, so that other commands find it")
    console.print("  try      wq latest, wq alerts, wq ledger, wq status; wq replay FILE --region REGION; Ctrl-C stops")


async def _until_stopped(system: System, settings: Settings, demo: Demo | None, console: Console, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(show_live(system, console))]
        if demo is not None:
            background.append(tasks.create_task(stream_fleet(system.target, settings, demo)))
        await stop.wait()
        for task in background:
            task.cancel()


def _say_what_was_stored(totals: Totals, caught_up: bool, path: Path | None, console: Console) -> None:
    counts = ", ".join(f"{name} {getattr(totals, name):,}" for name in ("accepted", "duplicate", "conflicting", "refused"))
    place = escape(str(path)) if path else "the shards"
    console.print(f"stored [bold green]{totals.stored:,}[/] readings in {place} since it was made ({counts})")
    if not caught_up:
        console.print("some accepted readings are still in the log: the next start records them, nothing is lost")


def engines_file() -> Path:
    """The settings that `wq engines up` has written. Raises SetupError when it has not."""
    file = Path(os.environ.get("WQ_ENGINES", ".engines")) / "wq.toml"
    if not file.exists():
        raise SetupError(f"there is no {file}: run wq engines up first, or give --config FILE")
    return file
