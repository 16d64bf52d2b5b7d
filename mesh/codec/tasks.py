"""What travels on the Exchange <-> plain values: conditions (high) and what changed on the board (medium).

Every `read_...` raises InvalidArgument (UNREADABLE_RECORD) for bytes that are not such a task.
"""

from dataclasses import dataclass

from waterquality.v1 import alert_pb2, task_pb2
from waterquality.v1.reading_pb2 import FlaggedColumns

from mesh.codec.columns import read_flagged
from mesh.codec.packed import pack_columns
from mesh.codec.times import read_time, write_time
from mesh.codec.wire import decode, field, unreadable
from mesh.errors import InvalidArgument
from water.condition import Change, Condition, Evidence, Kind
from water.readings import Readings


@dataclass(frozen=True, slots=True)
class Task:
    """A condition, who reported it and when its batch arrived; `historical`: seen in the backfill lane, wakes nobody."""

    condition: Condition
    gateway_id: str
    region: str
    received_at_us: int
    historical: bool = False


def write_task(task: Task) -> bytes:
    """The bytes of a ConditionTask; equal tasks give equal bytes."""
    return task_message(task).SerializeToString(deterministic=True)


def read_task(body: bytes) -> Task:
    """The task of these bytes."""
    return task_of(decode(task_pb2.ConditionTask, body))


def task_message(task: Task) -> task_pb2.ConditionTask:
    """The message of a task."""
    condition = task.condition
    return task_pb2.ConditionTask(
        condition_id=condition.condition_id,
        began_time=write_time(condition.began_us),
        ended_time=None if condition.ended_us is None else write_time(condition.ended_us),
        change=int(condition.change),  # type: ignore[arg-type]
        sensor_id=condition.sensor_id,
        site_id=condition.site_id,
        gateway_id=task.gateway_id,
        region=task.region,
        kind=int(condition.kind),  # type: ignore[arg-type]
        rule_id=condition.rule_id,
        contaminant_type=condition.contaminant_type,
        severity_level=condition.severity_level,
        measured_time=write_time(condition.measured_us),
        received_time=write_time(task.received_at_us),
        evidence=[write_evidence(evidence) for evidence in condition.evidence],
        historical=task.historical,
    )


def task_of(message: task_pb2.ConditionTask) -> Task:
    """The inverse. Raises InvalidArgument for a change or kind that this program does not know, and for a task without times."""
    began_us, measured_us, received_us = (
        read_time(message, name, name) for name in ("began_time", "measured_time", "received_time")
    )
    if began_us is None or measured_us is None or received_us is None or not message.condition_id:
        raise unreadable("ConditionTask", "it needs condition_id, began_time, measured_time and received_time")
    try:
        kind, change = Kind(message.kind), Change(message.change)
    except ValueError as error:
        raise unreadable("ConditionTask", f"{error}: update this program") from error
    condition = Condition(
        message.condition_id,
        began_us,
        read_time(message, "ended_time", "ended_time"),
        change,
        message.sensor_id,
        message.site_id,
        kind,
        message.rule_id,
        message.severity_level,
        measured_us,
        tuple(read_evidence(evidence) for evidence in message.evidence),
        message.contaminant_type,
    )
    return Task(condition, message.gateway_id, message.region, received_us, message.historical)


def write_evidence(evidence: Evidence) -> alert_pb2.Evidence:
    """The message of one piece of evidence."""
    return alert_pb2.Evidence(
        parameter=evidence.parameter,  # type: ignore[arg-type]
        value=evidence.value,
        expected=evidence.expected,
        score=evidence.score,
        test=evidence.test,
    )


def read_evidence(message: alert_pb2.Evidence) -> Evidence:
    """The inverse; numbers are as float32 holds them."""
    return Evidence(message.parameter, message.value, message.expected, message.score, message.test)


def write_board(region: str, latest: Readings) -> bytes:
    """The bytes of a BoardTask: flagged readings of one region, one per sensor."""
    if latest.flags is None:
        raise ValueError("readings without flags: screen them first")
    flagged = FlaggedColumns.DESCRIPTOR
    columns = field(flagged, "readings", pack_columns(latest)) + field(flagged, "flags", latest.flags.astype("<u8").tobytes())
    content = field(task_pb2.BoardTask.DESCRIPTOR, "latest", columns)
    return content + task_pb2.BoardTask(region=region).SerializeToString()


def read_board(body: bytes) -> tuple[str, Readings]:
    """(region, its flagged readings)."""
    task = decode(task_pb2.BoardTask, body)
    try:
        return task.region, read_flagged(task.latest)
    except InvalidArgument as error:
        raise unreadable("BoardTask", error.message) from error
