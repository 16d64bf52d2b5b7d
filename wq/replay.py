"""The command `wq replay`: measurements from files into the mesh, with proof that every one arrived."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from mesh.errors import InvalidArgument, SetupError
from wq.connect import find_target, says_errors
from wq.formats.column_map import HOW_TO_WRITE, ColumnMap, read_column_map
from wq.formats.known import KNOWN
from wq.formats.station import StationFile
from wq.options import AsJson, Target
from wq.pace import read_speed
from wq.replay_report import print_outcome
from wq.replay_run import Outcome, Plan, run_replay
from wq.when import read_seconds

SENSORS_PER_FILE = 10
_HELP = f"""Sends measurements from files, waits until they are stored, and proves with the ledger that none was lost.

Files are CSV or CSV.gz. Known by their header: {", ".join(known.title for known in KNOWN)}.
Any other file needs --columns.

Each file is a station: its readings get the sensor id of --sensor-id (the
first file), + 10 (the second), and so on; a format with two probes (GECCO)
uses the next id too. Rows that cannot be read are counted and named by line,
never guessed; a row without any value is sent, and refused (NO_VALUES).
Values are converted as float32(float64(text) * factor + offset).

Local times in the hour that a zone skips are unreadable. In the hour that it
has twice, a sensor's rows must show both passes (times grow, fall back once,
grow again); a single pass could be either hour, and is unreadable.

Ends with 0 when the ledger agrees, 1 when it does not or a file could not be
read to its end, 2 for a wrong command line, 130 after Ctrl-C.

Examples:

  wq replay ../shared/data/logan_river/FranklinBasin2014.csv.gz --region utah

  wq replay ../shared/data/gecco/*.csv.gz --region thuringia --sensor-id 100 --backfill

  wq replay station.csv --columns MAP.toml --region bavaria --speed 60x --json

\b
{HOW_TO_WRITE.replace("[", chr(92) + "[")}"""


def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV or CSV.gz files.")],
    region: Annotated[str, typer.Option(help="Region of the stations, 1 to 20 characters of a-z 0-9 _ -.")],
    sensor_id: Annotated[int | None, typer.Option(min=1, help="Sensor id of the first file; default 1.")] = None,
    gateway: Annotated[str, typer.Option(help="Id to send as; only one sender may use it at a time.")] = "replay",
    speed: Annotated[str, typer.Option(help="max, realtime, or a factor such as 60x.")] = "max",
    backfill: Annotated[bool, typer.Option("--backfill", help="Send in the backfill lane: history, wakes nobody.")] = False,
    columns: Annotated[Path | None, typer.Option(metavar="MAP.toml", help="What the columns mean; see below.")] = None,
    wait: Annotated[str, typer.Option(metavar="DURATION", help="Longest wait for acknowledgements and stages.")] = "10m",
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    try:
        rate = read_speed(speed)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message, param_hint="--speed") from None
    plan = Plan(find_target(target), gateway, region, backfill, rate, read_seconds(wait, "--wait"))
    outcome = _replay(files, columns, sensor_id, plan, as_json)
    print_outcome(outcome, as_json)
    if outcome.interrupted:
        raise typer.Exit(130)
    if outcome.problems:
        raise typer.Exit(1)


replay.__doc__ = _HELP


@says_errors
def _replay(files: list[Path], columns: Path | None, sensor_id: int | None, plan: Plan, as_json: bool) -> Outcome:
    column_map = read_column_map(columns) if columns else None
    if column_map is not None and column_map.sensor_id and sensor_id is not None:
        raise typer.BadParameter(f"the column {column_map.sensor_id!r} names the sensors", param_hint="--sensor-id")
    with ExitStack() as stack:
        stations = [
            stack.enter_context(_open(path, column_map, (sensor_id or 1) + number * SENSORS_PER_FILE))
            for number, path in enumerate(files)
        ]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run_replay(stations, plan, quiet=as_json))


def _open(path: Path, column_map: ColumnMap | None, sensor_id: int) -> StationFile:
    if sensor_id > 2**63 - SENSORS_PER_FILE:
        raise SetupError(f"sensor id {sensor_id} is beyond 64 bits")
    return StationFile(path, column_map, sensor_id)
