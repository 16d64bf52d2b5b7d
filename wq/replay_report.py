"""What a replay says at its end: a table and a verdict, or one JSON object."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from wq.formats.station import StationFile
from wq.plain import print_json
from wq.replay_run import Outcome
from wq.show import console, make_table
from wq.totals import Totals


def print_outcome(outcome: Outcome, as_json: bool) -> None:
    """On stdout; problems of a table on stderr too."""
    if as_json:
        print_json(_as_json(outcome))
        return
    screen = console()
    table = make_table("", ["file", "sensors"], (), ["rows", "readings", "unreadable"])
    for file in outcome.files:
        sensors = ", ".join(map(str, file.sensor_ids)) or "in the file"
        counts = (file.rows, file.readings_count, file.unreadable.count)
        table.add_row(file.path.name, sensors, *map(_grouped, counts))
    screen.print(table)
    for file in outcome.files:
        _print_notes(file, screen)
    _print_counts(outcome, screen)
    for problem in outcome.problems:
        screen.print(f"[bold red]problem:[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if outcome.interrupted:
        screen.print(f"[yellow]stopped:[/] {_grouped(outcome.sent.acknowledged)} readings were acknowledged, so they are durable")
    elif not outcome.problems:
        screen.print("[green]nothing lost:[/] the ledger agrees with what was sent, and balances")


def _print_notes(file: StationFile, screen: Console) -> None:
    name = escape(file.path.name)
    for column in file.unknown_columns:
        screen.print(f"[yellow]{name}:[/] unknown column {column[:60]!r} is not sent", highlight=False, soft_wrap=True)
    for column in file.absent_columns:
        screen.print(f"[dim]{name}: it has no column {column!r}[/]", highlight=False, soft_wrap=True)
    for line, problem in file.unreadable.first:
        screen.print(f"[yellow]{name}:[/] line {line}: {escape(problem)}", highlight=False, soft_wrap=True)
    if file.unreadable.count > len(file.unreadable.first):
        rest = file.unreadable.count - len(file.unreadable.first)
        screen.print(f"[yellow]{name}:[/] and {_grouped(rest)} more rows that cannot be read", highlight=False)
    if not file.rows and not file.problem:
        screen.print(f"[yellow]{name}:[/] it has a header and no rows", highlight=False)


def _print_counts(outcome: Outcome, screen: Console) -> None:
    sent, ledger = outcome.sent, outcome.ledger
    names = ["handed over", "acknowledged", "reconnects", *(f"refused: {reason}" for reason in sent.refused)]
    counts = [sent.handed_over, sent.acknowledged, sent.reconnects, *sent.refused.values()]
    if ledger is not None:
        names += ["stored", "duplicate", "conflicting"]
        counts += [ledger.stored, ledger.duplicate, ledger.conflicting]
    table = make_table("", (), (), names)
    table.add_row(*map(_grouped, counts))
    screen.print(table)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    sent = outcome.sent
    return {
        "files": [_file_json(file) for file in outcome.files],
        "handed_over_count": sent.handed_over,
        "transmitted_count": sent.transmitted,
        "acknowledged_count": sent.acknowledged,
        "reconnect_count": sent.reconnects,
        "refused": _refused_json(sent.refused),
        "ledger": None if outcome.ledger is None else _ledger_json(outcome.ledger),
        "caught_up": outcome.caught_up,
        "balanced": outcome.balanced,
        "interrupted": outcome.interrupted,
        "problems": list(outcome.problems),
    }


def _file_json(file: StationFile) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "format": file.map.title,
        "sensor_ids": list(file.sensor_ids),
        "row_count": file.rows,
        "reading_count": file.readings_count,
        "unreadable_count": file.unreadable.count,
        "unreadable": [{"line": line, "problem": problem} for line, problem in file.unreadable.first],
        "unknown_columns": list(file.unknown_columns),
        "absent_columns": list(file.absent_columns),
        "problem": file.problem,
    }


def _ledger_json(change: Totals) -> dict[str, Any]:
    return {
        "sent_count": change.sent,
        "accepted_count": change.accepted,
        "refused": _refused_json(change.refused),
        "stored_count": change.stored,
        "duplicate_count": change.duplicate,
        "conflicting_count": change.conflicting,
        "dead_at_screen_count": change.dead_at_screen,
        "dead_at_record_count": change.dead_at_record,
    }


def _refused_json(refused: Any) -> list[dict[str, Any]]:
    return [{"reason": f"REJECTION_REASON_{reason}", "count": count} for reason, count in sorted(refused.items())]


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")
