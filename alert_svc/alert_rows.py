"""How alerts, episodes and events stand in their tables: values <-> rows as JSON, exact to the microsecond."""

from datetime import UTC, datetime, timedelta
from typing import Any

from alert_svc.facts import Strength, read_evidence, read_facts, write_evidence, write_facts
from alert_svc.standing import Episode, Standing
from mesh.codec.alerts import Alert, Event, State
from water.condition import Kind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


def alert_of(row: dict[str, Any]) -> Alert:
    """The alert of a row as JSON (to_jsonb)."""
    return Alert(
        alert_id=row["alert_id"],
        condition_id=row["condition_id"],
        sensor_id=row["sensor_id"],
        site_id=row["site_id"],
        region=row["region"],
        gateway_id=row["gateway_id"],
        kind=Kind(row["kind"]),
        rule_id=row["rule_id"],
        contaminant_type=row["contaminant_type"],
        severity_level=row["severity_level"],
        state=State(row["state"]),
        raised_us=_us(row["timestamp"]),
        last_seen_us=_us(row["last_seen"]),
        cleared_us=None if row["cleared"] is None else _us(row["cleared"]),
        committed_us=_us(row["committed"]),
        historical=row["historical"],
        evidence=read_evidence(row["evidence"]),
        change=row["change"],
    )


def event_of(row: dict[str, Any]) -> Event:
    """The event of a row as JSON."""
    states = State(row["from_state"]), State(row["to_state"])
    return Event(_us(row["time"]), row["actor"], *states, row["comment"])


def at(us: int) -> datetime:
    """As PostgreSQL takes it, to the microsecond."""
    return _EPOCH + timedelta(microseconds=us)


def standing_of(row: dict[str, Any]) -> Standing:
    """The alert of a row as JSON, with what its next change needs."""
    return Standing(alert_of(row), row["newest_us"], Strength(*row["strength"]))


def alert_row(standing: Standing) -> dict[str, Any]:
    """The row of an alert, as JSON."""
    alert = standing.alert
    return {
        "alert_id": alert.alert_id,
        "sensor_id": alert.sensor_id,
        "timestamp": at(alert.raised_us).isoformat(),
        "contaminant_type": alert.contaminant_type,
        "severity_level": alert.severity_level,
        "state": int(alert.state),
        "kind": int(alert.kind),
        "rule_id": alert.rule_id,
        "condition_id": alert.condition_id,
        "site_id": alert.site_id,
        "region": alert.region,
        "gateway_id": alert.gateway_id,
        "last_seen": at(alert.last_seen_us).isoformat(),
        "cleared": None if alert.cleared_us is None else at(alert.cleared_us).isoformat(),
        "committed": at(alert.committed_us).isoformat(),
        "historical": alert.historical,
        "evidence": write_evidence(alert.evidence),
        "change": alert.change,
        "newest_us": standing.newest_us,
        "strength": list(standing.strength),
    }


def episode_of(row: dict[str, Any]) -> Episode:
    """The episode of a row as JSON."""
    facts = read_facts(row["facts"])
    return Episode(row["condition_id"], row["began_us"], row["ended_us"], row["historical"], row["alert_id"], facts)


def episode_row(episode: Episode) -> dict[str, Any]:
    """The inverse."""
    return {
        "condition_id": episode.condition_id,
        "began_us": episode.began_us,
        "ended_us": episode.ended_us,
        "historical": episode.historical,
        "alert_id": episode.alert_id,
        "facts": write_facts(episode.facts),
    }


def event_row(alert_id: int, change: int, event: Event) -> dict[str, Any]:
    """The row of an event, as JSON."""
    return {
        "alert_id": alert_id,
        "change": change,
        "time": at(event.time_us).isoformat(),
        "actor": event.actor,
        "from_state": int(event.from_state),
        "to_state": int(event.to_state),
        "comment": event.comment,
    }


def _us(iso: str) -> int:
    return (datetime.fromisoformat(iso) - _EPOCH) // _US
