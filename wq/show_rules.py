"""How rules look in a terminal."""

from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration
from rich.table import Table
from rich.text import Text
from waterquality.v1 import rule_pb2 as pb
from waterquality.v1.catalog_pb2 import SourceType

from water.parameter import BY_NUMBER
from wq.show import make_table
from wq.when import span

_SHOWN = 3


def rules_table(rules: Iterable[pb.Rule]) -> Table:
    """One line per rule; one that is not judged is dim and says so."""
    table = make_table(["rule", "parameter", "allowed", "deadband", "raised after", "cleared after"], ["severity"])
    for name in ("where", "source", "etag"):
        table.add_column(name, overflow="fold")
    for rule in rules:
        known = BY_NUMBER.get(rule.parameter)
        table.add_row(
            Text(rule.rule_id + (" (disabled)" if rule.disabled else "")),
            Text(known.label if known else str(rule.parameter)),
            Text(_allowed(rule)),
            Text(f"{rule.deadband:g}" if rule.deadband else ""),
            _delay(rule.on_delay_duration),
            _delay(rule.off_delay_duration),
            str(rule.severity_level),
            Text(_where(rule)),
            Text(rule.citation),
            rule.etag,
            style="dim" if rule.disabled else "",
        )
    return table


def _allowed(rule: pb.Rule) -> str:
    lower = f"{rule.lower_limit:g}" if rule.HasField("lower_limit") else ""
    upper = f"{rule.upper_limit:g}" if rule.HasField("upper_limit") else ""
    span_of = f"{lower} to {upper}" if lower and upper else f">= {lower}" if lower else f"<= {upper}"
    known = BY_NUMBER.get(rule.parameter)
    unit = known.unit if known else ""
    if rule.statistic == pb.STATISTIC_RATE:
        unit = f"{unit}/h" if unit else "per hour"
    return f"{span_of} {unit}".strip()


def _delay(delay: Duration) -> str:
    seconds = delay.ToMicroseconds() / 1e6
    return span(seconds) if seconds else "at once"


def _where(rule: pb.Rule) -> str:
    places: list[tuple[str, Sequence[object]]] = [
        ("sensor", rule.sensor_ids),
        ("site", rule.site_ids),
        ("region", rule.regions),
    ]
    parts = [f"{name} {_some(ids)}" for name, ids in places if ids]
    if rule.source_type:
        parts.insert(0, f"{SourceType.Name(rule.source_type).removeprefix('SOURCE_TYPE_').lower()} water")
    return ", ".join(parts) or "everywhere"


def _some(ids: Sequence[object]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return " ".join(map(str, ids[:_SHOWN])) + more
