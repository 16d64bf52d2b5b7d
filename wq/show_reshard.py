"""How a resharding looks in a terminal: its plan as a table, bars while it runs, and what has come of it."""

from collections import Counter
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from query_svc.reshard.proposal import Proposal
from query_svc.reshard.resharding import Report
from query_svc.reshard.steps import NAMES
from wq.show import count, make_table, show

EACH_SLOT_S = 2.0
"""About what a slot costs besides its bytes."""


def expected_s(proposal: Proposal, mb_per_s: float) -> float:
    """About how long it takes: the bytes at the throttle (an upper bound: indexes are not copied), and two seconds a slot."""
    return (proposal.bytes_left / (mb_per_s * 1e6) if mb_per_s else 0.0) + EACH_SLOT_S * len(proposal.left)


def plain_plan(proposal: Proposal, mb_per_s: float) -> dict[str, Any]:
    """For --json."""
    moves = [
        {
            "slot": move.slot,
            "source": move.source,
            "target": move.target,
            "step": state.step,
            "bytes": proposal.bytes_of_slot.get(move.slot, 0),
        }
        for move, state in proposal.moves.items()
    ]
    return {
        "shards": len(proposal.found.addresses),
        "wanted": proposal.wanted,
        "begun": proposal.plan is not None,
        "added": {str(shard): address for shard, address in proposal.added.items()},
        "retiring": list(proposal.retiring),
        "moves": moves,
        "bytes": proposal.bytes_left,
        "expected_seconds": round(expected_s(proposal, mb_per_s), 1),
    }


def show_plan(proposal: Proposal, mb_per_s: float) -> None:
    """A line per pair of shards, and what that means in all."""
    table = make_table(["from", "to"], ["slots", "MB"])
    pairs: Counter[tuple[int, int]] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for move in proposal.left:
        pairs[move.source, move.target] += 1
        sizes[move.source, move.target] += proposal.bytes_of_slot.get(move.slot, 0)
    for pair in sorted(pairs):
        source, target = pair
        new = " (new)" if target in proposal.added else ""
        table.add_row(f"shard {source}", f"shard {target}{new}", count(pairs[pair]), f"{sizes[pair] / 1e6:.1f}")
    slots, left = len(proposal.found.owner), len(proposal.left)
    begun = f", begun: {len(proposal.moves) - left} of {len(proposal.moves)} slots are moved" if proposal.plan else ""
    show(f"[bold]to {proposal.wanted} shards[/]{begun}")
    if not left:
        show("no slot is to be moved")
    else:
        show(table)
        seconds = expected_s(proposal, mb_per_s)
        share = f"{left} of {slots} slots ({left / slots:.0%}), {proposal.bytes_left / 1e6:.1f} MB"
        show(f"{share}, about {_minutes(seconds)} at {mb_per_s:g} MB/s; readings and queries go on")
    for shard, address in proposal.added.items():
        show(f"new: shard {shard}, {address}")
    for shard in proposal.retiring:
        show(f"leaves: shard {shard}, {proposal.found.addresses.get(shard, 'out of the map already')}")


def plain_report(report: Report, seconds: float) -> dict[str, Any]:
    """For --json."""
    return {
        "slots": report.slots,
        "rows": report.rows,
        "bytes": report.copied_bytes,
        "seconds": round(seconds, 3),
        "longest_freeze_ms": round(report.longest_freeze_us / 1000, 3),
        "longest_cut_ms": round(report.longest_cut_us / 1000, 3),
        "retired": list(report.retired),
    }


def show_report(report: Report, seconds: float) -> None:
    """What has come of it, and what is left for a person to do."""
    moved = f"{count(report.slots)} slots with {count(report.rows)} readings are moved and verified"
    show(f"[bold green]done[/]: {moved}, {report.copied_bytes / 1e6:.1f} MB copied in {_minutes(seconds)}")
    show(f"a slot took no readings for {report.longest_freeze_us / 1000:.0f} ms at most; nothing was ever unreadable")
    for address in report.retired:
        name = address.rpartition("/")[2]
        show(f'left, and empty: {address}; when no process of an older map runs any more: DROP DATABASE "{name}"')


class Bars:
    """Bytes copied of those expected, and the step of the slot, on stderr; nothing when `quiet` or stderr is no terminal."""

    def __init__(self, proposal: Proposal | None, quiet: bool) -> None:
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            _Amount(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._left = len(proposal.left) if proposal else 0
        self._sizes = dict(proposal.bytes_of_slot) if proposal else {}
        self._done = self._of_done = 0
        self._copied = 0
        self._bar = self._bars.add_task("slots", total=max(1, sum(self._sizes.values())), copied=0)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def reached(self, what: str, number: int, step: str, phase: str) -> None:
        """See query_svc.reshard.resharding.Watch."""
        if what == "slot" and (step, phase) == ("opened", "noted"):
            self._done += 1
            self._of_done += self._sizes.get(number, 0)
        doing = f"step {NAMES.index(step) + 1} of {len(NAMES)}, {step}" if step in NAMES else step
        said = f"{self._done} of {self._left} slots, {what} {number}: {doing}"
        self._bars.update(self._bar, description=said, completed=self._of_done)

    def copied(self, count: int) -> None:
        """Bytes on the wire are fewer than on disk; the rest of a slot is made up for when it is opened."""
        self._copied += count
        self._bars.update(self._bar, advance=count, copied=self._copied)


class _Amount(ProgressColumn):
    """Megabytes copied."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.fields.get('copied', 0) / 1e6:.1f} MB copied", "cyan")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
