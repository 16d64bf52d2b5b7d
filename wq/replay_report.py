"""What a replay says at its end: a table and a verdict, or one JSON object."""

from typing import Any

from rich.markup import escape

from wq.formats.station import StationFile
from wq.plain import print_json
from wq.replay_run import Outcome
from wq.show import count, make_table, show
from wq.totals import Totals


def print_outcome(outcome: Outcome, as_json: bool) -> None:
    """On stdout; problems of a table on stderr too."""
    if as_json:
        print_json(_as_json(outcome))
        return
    table = make_table(["file", "sensors"], ["rows", "readings", "unreadable"])
    for file in outcome.files:
        sensors = ", ".join(map(str, file.sensor_ids)) or "in the file"
        counts = (file.rows, file.readings_count, file.unreadable.count)
        table.add_row(file.path.name, sensors, *map(count, counts))
    show(table)
    for file in outcome.files:
        _print_notes(file)
    _print_counts(outcome)
    for problem in outcome.problems:
        show(f"[bold red]problem:[/] {escape(problem)}")
    if outcome.interrupted:
        show(f"[yellow]stopped:[/] {count(outcome.sent.acknowledged)} readings were acknowledged, so they are durable")
    elif not outcome.problems:
        show("[green]nothing lost:[/] the ledger agrees with what was sent, and balances")


def _print_notes(file: StationFile) -> None:
    name = escape(file.path.name)
    for column in file.unknown_columns:
        show(f"[yellow]{name}:[/] unknown column {column[:60]!r} is not sent")
    for column in file.absent_columns:
        show(f"[dim]{name}: it has no column {column!r}[/]")
    for line, problem in file.unreadable.first:
        show(f"[yellow]{name}:[/] line {line}: {escape(problem)}")
    if file.unreadable.count > len(file.unreadable.first):
        rest = file.unreadable.count - len(file.unreadable.first)
        show(f"[yellow]{name}:[/] and {count(rest)} more rows that cannot be read")
    if not file.rows and not file.problem:
        show(f"[yellow]{name}:[/] it has a header and no rows")


def _print_counts(outcome: Outcome) -> None:
    sent, ledger = outcome.sent, outcome.ledger
    counts = {"handed over": sent.handed_over, "acknowledged": sent.acknowledged}
    counts |= {f"refused: {reason}": number for reason, number in sent.refused.items()}
    if ledger is not None:
        counts |= {"stored": ledger.stored, "duplicate": ledger.duplicate, "conflicting": ledger.conflicting}
    if sent.reconnects:
        counts |= {"reconnects": sent.reconnects, "transmitted": sent.transmitted}
    table = make_table(["readings"], [""])
    for name, number in counts.items():
        table.add_row(name, count(number))
    show(table)


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
        "dead_at_archive_count": change.dead_at_archive,
        "archived_count": change.archived,
    }


def _refused_json(refused: Any) -> list[dict[str, Any]]:
    return [{"reason": f"REJECTION_REASON_{reason}", "count": count} for reason, count in sorted(refused.items())]
