"""How alerts look in a terminal."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text
from waterquality.v1 import alert_pb2 as pb

from water.parameter import BY_NUMBER
from wq.show import make_table, number
from wq.when import ago, iso

_SEVERITY_STYLES = {1: "dim", 2: "", 3: "yellow", 4: "bold yellow", 5: "bold red"}
_STATE_STYLES = {
    pb.ALERT_STATE_UNACKNOWLEDGED: "bold red",
    pb.ALERT_STATE_RETURNED_UNACKNOWLEDGED: "yellow",
    pb.ALERT_STATE_RESOLVED: "dim",
}


def alerts_table(alerts: Iterable[pb.Alert], now_us: int) -> Table:
    """One line per alert, in the order given."""
    table = make_table(["alert", "severity", "state", "since", "region", "what"])
    for alert in alerts:
        table.add_row(
            str(alert.alert_id),
            severity(alert),
            state(alert.state),
            ago(alert.raised_time.ToMicroseconds(), now_us),
            alert.region,
            Text(alert.summary + ("  (history)" if alert.historical else "")),
        )
    return table


def alert_table(alert: pb.Alert, now_us: int) -> Table:
    """All of one alert but its evidence and history."""
    table = make_table(["", ""])
    table.show_header = False
    cleared = alert.cleared_time if alert.HasField("cleared_time") else None
    for name, value in (
        ("alert", str(alert.alert_id)),
        ("what", Text(alert.summary)),
        ("severity", severity(alert)),
        ("state", state(alert.state)),
        ("sensor", str(alert.sensor_id or "")),
        ("site", alert.site_id),
        ("region", alert.region),
        ("gateway", alert.gateway_id),
        ("rule", alert.rule_id),
        ("contaminant", "" if alert.contaminant_type == "unknown" else alert.contaminant_type),
        ("began", _moment(alert.raised_time.ToMicroseconds(), now_us)),
        ("last seen", _moment(alert.last_seen_time.ToMicroseconds(), now_us)),
        ("ended", _moment(cleared.ToMicroseconds(), now_us) if cleared else "not yet"),
        ("committed", _moment(alert.committed_time.ToMicroseconds(), now_us)),
        ("from backfill", "yes: history, woke nobody" if alert.historical else ""),
    ):
        if value:
            table.add_row(Text(name, "dim"), value if isinstance(value, Text) else Text(value))
    return table


def evidence_table(evidence: Iterable[pb.Evidence]) -> Table:
    """Strongest first."""
    table = make_table(["evidence", "test"], ["value", "expected", "unit", "strength"])
    for each in evidence:
        parameter = BY_NUMBER.get(each.parameter)
        values = [number(value, parameter) if parameter else f"{value:g}" for value in (each.value, each.expected)]
        unit = (parameter.unit if parameter else "") + ("/h" if each.test == "rate" else "")
        table.add_row(
            Text(parameter.label if parameter else str(each.parameter)), Text(each.test), *values, unit, f"{each.score:.3g}"
        )
    return table


def history_table(history: Iterable[pb.AlertEvent]) -> Table:
    """Oldest first."""
    table = make_table(["when", "who", "became", "why"])
    for event in history:
        became = state(event.to_state) if event.to_state != event.from_state else Text("")
        table.add_row(iso(event.time.ToMicroseconds()), Text(event.actor), became, Text(event.comment))
    return table


def severity(alert: pb.Alert) -> Text:
    """1 to 5, the worst in red."""
    return Text(str(alert.severity_level), _SEVERITY_STYLES.get(alert.severity_level, ""))


def state(value: pb.AlertState.ValueType) -> Text:
    """In words."""
    known = value in pb.AlertState.values()
    name = pb.AlertState.Name(value).removeprefix("ALERT_STATE_").lower().replace("_", " ") if known else str(value)
    return Text(name, _STATE_STYLES.get(value, ""))


def _moment(us: int, now_us: int) -> str:
    return f"{iso(us)}  ({ago(us, now_us)})"
