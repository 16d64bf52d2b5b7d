"""What a running system tells its operator: one line that moves, or where nothing can move, a line now and then."""

import io
import sys
from collections import deque
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mesh import ledger
from mesh.errors import WaterError
from mesh.telemetry import BACKLOG, LAG, LEDGER
from query_svc.status import Status
from wq.system import System

EVERY_S = 1.0
PRINTED_EVERY = 10
RATE_OVER = 6
LONGEST_PROBLEM = 300
COST_SHARE = 20
"""Looking takes at most one part in so many of the time, however much there is to sum."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Readings since the data directory was made."""

    accepted: int
    stored: int
    duplicate: int
    conflicting: int
    archived: int
    refused: int


async def read_totals(system: System) -> Totals:
    """Sums of the ledger: gateways times hours, few rows each. Raises Unavailable."""
    sums = await system.querying.answer.totals()
    for measure, count in sums.items():
        system.metrics.set(LEDGER, count, measure=measure)
    refused = sum(count for measure, count in sums.items() if measure.startswith("refused:"))
    measures = (ledger.ACCEPTED, ledger.STORED, ledger.DUPLICATE, ledger.CONFLICTING, ledger.ARCHIVED)
    accepted, stored, duplicate, conflicting, archived = (sums.get(name, 0) for name in measures)
    return Totals(accepted, stored, duplicate, conflicting, archived, refused)


async def show_live(system: System, console: Console) -> None:
    """Shows readings a second, lag and stored once a second until cancelled; on a terminal as one line that moves, else as a
    line every ten seconds, and one whenever a problem comes, changes or goes."""
    past: deque[tuple[int, int]] = deque(maxlen=RATE_OVER)
    shown, had = 0, ""
    with Live(Text("starting ..."), console=console, auto_refresh=False, transient=True) as live:
        while True:
            began_us = system.clock.now_us()
            try:
                line, problem = await _look(system, past)
                pause_s = max(EVERY_S, (system.clock.now_us() - began_us) / 1e6 * COST_SHARE)
            except WaterError as error:
                problem, pause_s = on_one_line(system.ground.database.problem or error.message), EVERY_S
                line = Text(f"problem: {problem}", style="red")
            if console.is_terminal:
                line.no_wrap, line.overflow = True, "ellipsis"
                live.update(line, refresh=True)
            elif shown % PRINTED_EVERY == 0 or problem != had:
                console.print(line)
            shown, had = shown + 1, problem
            await system.clock.sleep(pause_s)


async def _look(system: System, past: deque[tuple[int, int]]) -> tuple[Text, str]:
    """The line, and the first problem that is in it. Raises Unavailable."""
    totals, status = await read_totals(system), await system.querying.status.status()
    past.append((system.clock.now_us(), totals.accepted))
    for stage in status.stages:
        system.metrics.set(BACKLOG, stage.backlog_count, stage=stage.stage)
        system.metrics.set(LAG, stage.lag_us / 1e6, stage=stage.stage)
    problems = [on_one_line(f"{stage.stage}: {stage.problem}") for stage in status.stages if stage.problem]
    if system.ground.database.problem:
        problems.insert(0, on_one_line(system.ground.database.problem))
    return _line(totals, _rate(past), status, len(system.accepting.streams), problems), problems[0] if problems else ""


def on_one_line(problem: str) -> str:
    """On one line; a server's last words may have several."""
    return " ".join(problem.split())[:LONGEST_PROBLEM]


def _rate(past: deque[tuple[int, int]]) -> float | None:
    """None before two looks."""
    (then_us, then), (now_us, now) = past[0], past[-1]
    return (now - then) / (now_us - then_us) * 1e6 if now_us > then_us else None


def _line(totals: Totals, rate: float | None, status: Status, streams: int, problems: list[str]) -> Text:
    lag_s = max((stage.lag_us for stage in status.stages), default=0) / 1e6
    line = Text.assemble(
        ("-" if rate is None else f"{rate:,.0f}", "bold"), " readings/s   lag ",
        (f"{lag_s:.1f} s", "bold" if lag_s < 5 else "bold yellow"), "   stored ", (f"{totals.stored:,}", "bold green"),
        f"   streams {streams}",
    )  # fmt: skip
    if totals.archived:
        line.append(f"   archived {totals.archived:,}")
    if totals.refused:
        line.append(f"   refused {totals.refused:,}", "yellow")
    for problem in problems:
        line.append(f"   {problem}", "red")
    return line


class PresentStderr(io.TextIOBase):
    """Stderr as it is at the moment of writing: while a line moves, that is above the line."""

    def write(self, text: str, /) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()
