"""What a changed alert says to people and machines outside: an Alert of the contract -> its last change, and plain JSON."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.json_format import MessageToDict
from waterquality.v1 import alert_pb2

from mesh.codec.times import read_time
from mesh.codec.wire import decode

SYSTEM = "system"  # the actor of what no person did
MOST_HISTORY = 5
MOST_EVIDENCE = 10


@dataclass(frozen=True, slots=True)
class Announced:
    """An alert after its newest change. `change`: raised, acknowledged, returned, resolved, reraised, shelved, unshelved,
    suppressed, out_of_service, escalated (more severe than before), commented or updated. `state` and `kind` are names of the
    contract without their prefix. `data` is the alert as JSON of protobuf's rules with the contract's field names, every field
    that has a value of its own, the newest 5 steps of its history and its 10 strongest evidences: a few kilobytes, however old
    the alert is."""

    alert_id: int
    change: str
    changed_us: int
    actor: str
    state: str
    kind: str
    severity_level: int
    sensor_id: int
    site_id: str
    summary: str
    data: dict[str, Any]


def read_notice(body: bytes) -> Announced:
    """Reads a serialized Alert. Raises InvalidArgument (UNREADABLE_RECORD) for anything else."""
    alert = decode(alert_pb2.Alert, body)
    step = alert.history[-1] if alert.history else alert_pb2.AlertEvent(to_state=alert.state)
    changed_us = read_time(step, "time", "history.time") or read_time(alert, "committed_time", "committed_time") or 0
    del alert.history[:-MOST_HISTORY]
    del alert.evidence[MOST_EVIDENCE:]
    return Announced(
        alert_id=alert.alert_id,
        change=_change(step),
        changed_us=changed_us,
        actor=step.actor,
        state=_name(alert_pb2.AlertState.DESCRIPTOR, alert.state, "ALERT_STATE_"),
        kind=_name(alert_pb2.ConditionKind.DESCRIPTOR, alert.kind, "CONDITION_KIND_"),
        severity_level=alert.severity_level,
        sensor_id=alert.sensor_id,
        site_id=alert.site_id,
        summary=alert.summary,
        data=MessageToDict(alert, preserving_proto_field_name=True, always_print_fields_with_no_presence=True),
    )


def _change(step: alert_pb2.AlertEvent) -> str:
    before, after = step.from_state, step.to_state
    if before == after:
        return "escalated" if step.actor == SYSTEM else "commented" if step.comment else "updated"
    if before == alert_pb2.ALERT_STATE_SHELVED and after != alert_pb2.ALERT_STATE_RESOLVED:
        return "unshelved"
    if after == alert_pb2.ALERT_STATE_UNACKNOWLEDGED:
        return "raised" if before == alert_pb2.ALERT_STATE_UNSPECIFIED else "reraised"
    return _ARRIVED.get(after, "updated")


def _name(kind: EnumDescriptor, number: int, prefix: str) -> str:
    """The enum value without its prefix; the number itself of one that is newer than we are."""
    value = kind.values_by_number.get(number)
    return value.name.removeprefix(prefix) if value else str(number)


_ARRIVED = {
    alert_pb2.ALERT_STATE_ACKNOWLEDGED: "acknowledged",
    alert_pb2.ALERT_STATE_RETURNED_UNACKNOWLEDGED: "returned",
    alert_pb2.ALERT_STATE_SHELVED: "shelved",
    alert_pb2.ALERT_STATE_SUPPRESSED: "suppressed",
    alert_pb2.ALERT_STATE_OUT_OF_SERVICE: "out_of_service",
    alert_pb2.ALERT_STATE_RESOLVED: "resolved",
}
