"""Alert and AlertEvent messages <- plain values: a condition that was raised, and its life after ISA-18.2."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from waterquality.v1 import alert_pb2

from mesh.codec.tasks import write_evidence
from mesh.codec.times import write_time
from water.condition import Evidence, Kind

SYSTEM = "system"


class State(IntEnum):
    """AlertState of the contract, same numbers (kept by a test). Open is any but RESOLVED."""

    UNSPECIFIED = 0
    UNACKNOWLEDGED = 1
    ACKNOWLEDGED = 2
    RETURNED_UNACKNOWLEDGED = 3
    SHELVED = 4
    SUPPRESSED = 5
    OUT_OF_SERVICE = 6
    RESOLVED = 7


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that was raised, as it is now. Measured times: `raised_us`, when its first episode began; `last_seen_us`, of
    the newest reading that showed it; `cleared_us`, when its newest episode ended, None while that lasts. `committed_us`: when
    it was raised here. `change`: counts its changes from 1. `evidence`: strongest first."""

    alert_id: int
    condition_id: str
    sensor_id: int
    site_id: str
    region: str
    gateway_id: str
    kind: Kind
    rule_id: str
    contaminant_type: str
    severity_level: int
    state: State
    raised_us: int
    last_seen_us: int
    cleared_us: int | None
    committed_us: int
    historical: bool
    evidence: tuple[Evidence, ...]
    change: int

    @property
    def is_open(self) -> bool:
        """Whether somebody still has to do something about it."""
        return self.state != State.RESOLVED


@dataclass(frozen=True, slots=True)
class Event:
    """A step in an alert's life: a change of state, or (both states the same) a remark. `actor`: a person, or SYSTEM."""

    time_us: int
    actor: str
    from_state: State
    to_state: State
    comment: str


def write_alert(alert: Alert, summary: str, history: Iterable[Event] = ()) -> alert_pb2.Alert:
    """The message of an alert."""
    return alert_pb2.Alert(
        alert_id=alert.alert_id,
        sensor_id=alert.sensor_id,
        site_id=alert.site_id,
        region=alert.region,
        kind=int(alert.kind),  # type: ignore[arg-type]
        rule_id=alert.rule_id,
        contaminant_type=alert.contaminant_type,
        severity_level=alert.severity_level,
        state=int(alert.state),  # type: ignore[arg-type]
        raised_time=write_time(alert.raised_us),
        last_seen_time=write_time(alert.last_seen_us),
        cleared_time=None if alert.cleared_us is None else write_time(alert.cleared_us),
        committed_time=write_time(alert.committed_us),
        evidence=[write_evidence(evidence) for evidence in alert.evidence],
        history=[_write_event(event) for event in history],
        summary=summary,
        condition_id=alert.condition_id,
        gateway_id=alert.gateway_id,
        historical=alert.historical,
    )


def _write_event(event: Event) -> alert_pb2.AlertEvent:
    return alert_pb2.AlertEvent(
        time=write_time(event.time_us),
        actor=event.actor,
        from_state=int(event.from_state),  # type: ignore[arg-type]
        to_state=int(event.to_state),  # type: ignore[arg-type]
        comment=event.comment,
    )
