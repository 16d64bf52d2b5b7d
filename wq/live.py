"""What a running system tells its operator: one line that moves."""

from collections import deque
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mesh import ledger
from mesh.errors import WaterError
from query_svc.status import Status
from wq.embedded import System

EVERY_S = 1.0
RATE_OVER = 6


@dataclass(frozen=True, slots=True)
class Totals:
    """Readings since the data directory was made."""

    accepted: int
    stored: int
    duplicate: int
    conflicting: int
    refused: int


async def read_totals(system: System) -> Totals:
    """Sums of the ledger."""
    sums = await system.querying.answer.totals()
    refused = sum(count for measure, count in sums.items() if measure.startswith("refused:"))
    accepted, stored, duplicate, conflicting = (
        sums.get(name, 0) for name in (ledger.ACCEPTED, ledger.STORED, ledger.DUPLICATE, ledger.CONFLICTING)
    )
    return Totals(accepted, stored, duplicate, conflicting, refused)


async def show_live(system: System, console: Console) -> None:
    """Shows readings a second, lag and stored once a second until cancelled; on a terminal as one line that moves, else as a
    line every ten seconds."""
    past: deque[tuple[int, int]] = deque(maxlen=RATE_OVER)
    shown = 0
    with Live(Text("starting ..."), console=console, auto_refresh=False, transient=True) as live:
        while True:
            try:
                totals, status = await read_totals(system), await system.querying.status.status()
                past.append((system.clock.now_us(), totals.accepted))
                line = _line(totals, _rate(past), status, len(system.accepting.streams))
            except WaterError as error:
                line = Text(f"problem: {error.message}", style="red")
            if console.is_terminal:
                live.update(line, refresh=True)
            elif shown % 10 == 0:
                console.print(line)
            shown += 1
            await system.clock.sleep(EVERY_S)


def _rate(past: deque[tuple[int, int]]) -> float:
    (then_us, then), (now_us, now) = past[0], past[-1]
    return (now - then) / (now_us - then_us) * 1e6 if now_us > then_us else 0.0


def _line(totals: Totals, rate: float, status: Status, streams: int) -> Text:
    lag_s = max((stage.lag_us for stage in status.stages), default=0) / 1e6
    line = Text.assemble(
        (f"{rate:,.0f}", "bold"), " readings/s   lag ", (f"{lag_s:.1f} s", "bold" if lag_s < 5 else "bold yellow"),
        "   stored ", (f"{totals.stored:,}", "bold green"), f"   streams {streams}",
    )  # fmt: skip
    if totals.refused:
        line.append(f"   refused {totals.refused:,}", "yellow")
    for stage in status.stages:
        if stage.problem:
            line.append(f"   {stage.stage}: {stage.problem[:80]}", "red")
    return line
