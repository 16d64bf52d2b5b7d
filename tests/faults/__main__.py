"""The fault suite: `python -m tests.faults`. Ends with 1 when a row failed."""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.markup import escape

from tests.faults.embedded import EmbeddedDeployment
from tests.faults.real import RealDeployment
from tests.faults.report import page, shown, versions_of
from tests.faults.run import Row
from tests.faults.suite import MakeDeployment, Suite

SHAPES: dict[str, tuple[MakeDeployment, str]] = {
    "engines": (
        RealDeployment,
        "Kafka (3 brokers), RabbitMQ, PostgreSQL (catalog and 2 shards) and S3 by `wq engines`, and 11 processes of `wq serve`:\n"
        "2 accept, 2 screen, 2 record, 2 answer, 2 alert, 1 archive. Every engine is reached through a proxy that breaks.",
    ),
    "up": (EmbeddedDeployment, "`wq up`: everything in one process, with its own PostgreSQL."),
}


def main(
    on: Annotated[str, typer.Option(help=f"What is broken: {', '.join(SHAPES)}.")] = "engines",
    only: Annotated[
        list[str] | None, typer.Option(metavar="WORDS", help="Only faults with these words; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the content, and of which two faults meet.")] = 20261126,
    short: Annotated[bool, typer.Option("--short", help="Each fault as short as in the tests.")] = False,
    write: Annotated[Path | None, typer.Option(help="Write the page of the table there.")] = None,
) -> None:
    """Breaks a running mesh in every way that is known here, and proves after each that nothing was lost or doubled."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # gateways tell of each break
    if on not in SHAPES:
        raise typer.BadParameter(f"{on!r} is none of {', '.join(SHAPES)}", param_hint="--on")
    make, shape = SHAPES[on]
    console = Console()
    suite = Suite(make, seed, lambda fault, step: console.print(f"[dim]{escape(fault)}: {step}[/]"), only or (), short)
    rows = asyncio.run(_run(suite, console))
    Console(width=max(console.width, 190)).print(shown(rows))
    if write is not None:
        command = f"python -m tests.faults --on {on} --seed {seed}" + (" --short" if short else "")
        write.write_text(page(rows, seed, command, versions_of(suite.versions), shape))
    if not rows or any(not row.passed for row in rows):
        raise typer.Exit(1)


async def _run(suite: Suite, console: Console) -> list[Row]:
    """Ctrl-C and SIGTERM end it with everything that it has started."""
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    rows: list[Row] = []
    async for row in suite.rows():
        rows.append(row)
        verdict = "[green]ok[/]" if row.passed else "[bold red]FAILED[/]"
        console.print(f"{verdict} {escape(row.fault)} in {row.seconds:.0f} s, recovered after {row.recovery_s or 0:.1f} s")
        for problem in row.problems:
            console.print(f"  [red]{escape(problem)}[/]")
    return rows


if __name__ == "__main__":
    typer.run(main)
