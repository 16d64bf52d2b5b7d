"""Benchmarks: each measures one path of the mesh, beside a reference measured in the same run."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wq.bench.alarm import Watch, bench_alarm
from wq.bench.pipeline import Load, bench_pipeline
from wq.connect import says_errors
from wq.plain import print_json

bench = typer.Typer(help="Measures one path of the mesh, beside a reference measured in the same run.", no_args_is_help=True)


@bench.command()
@says_errors
def pipeline(
    readings: Annotated[int, typer.Option(min=10_000, help="How many readings to send.")] = 1_000_000,
    sensors: Annotated[int, typer.Option(min=1, help="Sensors, shared by the gateways.")] = 10_000,
    gateways: Annotated[int, typer.Option(min=1, max=64, help="Gateways that stream at once.")] = 4,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Readings of a message.")] = 1_000,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Readings of many gateways through the whole embedded system, until the ledger agrees, beside a raw COPY of the same rows.

    Examples:

      wq bench pipeline

      wq bench pipeline --readings 10000000 --json
    """
    _show(asdict(asyncio.run(bench_pipeline(Load(readings, sensors, gateways, batch)))), json)


@bench.command()
@says_errors
def alarm(
    rate: Annotated[int, typer.Option(min=1000, help="Readings a second in the background.")] = 20_000,
    probes: Annotated[int, typer.Option(min=1, max=10_000, help="Readings that break a limit.")] = 200,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Over how long the probes are spread.")] = 40,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """From a measurement to its committed alert, beside a steady stream of readings, on the idle system and beside a raw commit.

    Examples:

      wq bench alarm

      wq bench alarm --rate 50000 --probes 1000 --seconds 60 --json
    """
    _show(asdict(asyncio.run(bench_alarm(Watch(rate, probes, seconds)))), json)


def _show(result: dict[str, Any], json: bool) -> None:
    if json:
        print_json(result)
        return
    table = Table("measured", "", title=f"wq bench {result['bench']}")
    for name, value in result.items():
        table.add_row(
            name,
            ", ".join(f"{key} {_number(each)}" for key, each in value.items()) if isinstance(value, dict) else _number(value),
        )
    Console().print(table)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
