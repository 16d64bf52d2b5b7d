"""Log records of log.proto <-> plain values: what stages append to the Log and read from it.

Every `read_...` raises InvalidArgument (UNREADABLE_RECORD) for bytes that are not such a record.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum

import numpy as np
from waterquality.v1 import log_pb2
from waterquality.v1.reading_pb2 import FlaggedColumns, ReadingColumns

from mesh.codec.columns import read_columns, read_flagged
from mesh.codec.packed import pack_columns
from mesh.codec.rejections import Refusal, write_rejections
from mesh.codec.tasks import Task, task_message, task_of
from mesh.codec.wire import decode, field, unreadable
from mesh.errors import InvalidArgument
from water.readings import Readings, empty


class ContextKind(IntEnum):
    """ContextKind of the contract, same numbers (kept by a test)."""

    RULES = 1
    CATALOG = 2
    MODEL = 3


@dataclass(frozen=True, slots=True)
class Accepted:
    """The accepted readings of one batch; `readings` carries its columns' message as `source`."""

    gateway_id: str
    sequence: int
    region: str
    received_at_us: int
    readings: Readings


@dataclass(frozen=True, slots=True)
class ContextChange:
    """From here on, screen with this version of a context. `kind` may be a number that ContextKind does not know yet."""

    kind: int
    version: int
    object_path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Screened:
    """One accepted record after screening; no readings and an empty gateway for a context or a dead record."""

    gateway_id: str
    sequence: int
    region: str
    received_at_us: int
    readings: Readings
    source_offset: int
    previous_source_offset: int
    context_version: tuple[int, ...] = ()
    conditions: tuple[Task, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A Refusal as it was read from a record."""

    reason: int
    count: int
    parameter: int
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Refused readings, in the order of the refusals' indexes. None: their columns differ in length, nobody can tell rows."""

    gateway_id: str
    sequence: int
    region: str
    received_at_us: int
    refusals: tuple[Rejected, ...]
    readings: Readings | None


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that a stage gave up on. Unique by (stage, topic, partition, offset)."""

    stage: str
    topic: str
    partition: int
    offset: int
    gateway_id: str
    hour_us: int
    reading_count: int
    problem: str
    content: bytes


def write_accepted(gateway_id: str, sequence: int, region: str, received_at_us: int, readings: Readings) -> bytes:
    """The record of `accepted` and `backfill` that holds these readings."""
    batch = log_pb2.AcceptedBatch(gateway_id=gateway_id, sequence=sequence, region=region, received_at_us=received_at_us)
    content = batch.SerializeToString() + field(log_pb2.AcceptedBatch.DESCRIPTOR, "readings", _columns(readings))
    return field(log_pb2.AcceptedRecord.DESCRIPTOR, "batch", content)


def write_context(change: ContextChange) -> bytes:
    """The record, the same in `accepted`, `backfill` and `contexts`, that tells of a changed context."""
    context = log_pb2.ContextChanged(
        kind=change.kind,  # type: ignore[arg-type]
        version=change.version,
        object_path=change.object_path,
        sha256=change.sha256,
    )
    return log_pb2.AcceptedRecord(context=context).SerializeToString()


def read_accepted(value: bytes) -> Accepted | ContextChange:
    """What a record of `accepted`, `backfill` or `contexts` carries."""
    record = decode(log_pb2.AcceptedRecord, value)
    if record.HasField("context"):
        change = record.context
        return ContextChange(change.kind, change.version, change.object_path, change.sha256)
    if not record.HasField("batch"):
        raise unreadable("AcceptedRecord", "it carries neither a batch nor a context")
    batch = record.batch
    return Accepted(
        batch.gateway_id, batch.sequence, batch.region, batch.received_at_us, _readings("AcceptedRecord", batch.readings)
    )


def write_screened(screened: Screened) -> bytes:
    """The record of `screened` and `screened_backfill`. The readings must carry flags, unless there are none."""
    batch = log_pb2.ScreenedBatch(
        gateway_id=screened.gateway_id,
        sequence=screened.sequence,
        region=screened.region,
        received_at_us=screened.received_at_us,
        source_offset=screened.source_offset,
        previous_source_offset=screened.previous_source_offset,
        context_version=screened.context_version,
        conditions=map(task_message, screened.conditions),
    )
    content = batch.SerializeToString()
    readings = screened.readings
    if not len(readings):
        return content
    if readings.flags is None:
        raise ValueError("readings without flags: screen them first")
    flagged = FlaggedColumns.DESCRIPTOR
    columns = field(flagged, "readings", _columns(readings))
    flags = field(flagged, "flags", readings.flags.astype("<u8", copy=False).tobytes())
    return content + field(log_pb2.ScreenedBatch.DESCRIPTOR, "readings", columns + flags)


def read_screened(value: bytes) -> Screened:
    """What a record of `screened` or `screened_backfill` carries; its readings always have flags."""
    batch = decode(log_pb2.ScreenedBatch, value)
    if batch.HasField("readings"):
        try:
            readings = read_flagged(batch.readings)
        except InvalidArgument as error:
            raise unreadable("ScreenedBatch", error.message) from error
    else:
        readings = empty().with_flags(np.empty(0, np.uint64))
    return Screened(
        batch.gateway_id,
        batch.sequence,
        batch.region,
        batch.received_at_us,
        readings,
        batch.source_offset,
        batch.previous_source_offset,
        tuple(batch.context_version),
        tuple(map(task_of, batch.conditions)),
    )


def write_refused(
    gateway_id: str, sequence: int, region: str, received_at_us: int, refusals: Sequence[Refusal], readings: object
) -> bytes:
    """The record of `refused`. `readings`: Readings in the order of the refusals' indexes, or the ReadingColumns message as it
    came, where its columns differ in length."""
    rejections = write_rejections((sequence, refusal) for refusal in refusals)
    batch = log_pb2.RefusedBatch(
        gateway_id=gateway_id, sequence=sequence, region=region, received_at_us=received_at_us, rejections=rejections
    )
    if not isinstance(readings, Readings | ReadingColumns):
        raise TypeError(f"refused readings are {type(readings).__name__}: give Readings or ReadingColumns")
    return batch.SerializeToString() + field(log_pb2.RefusedBatch.DESCRIPTOR, "readings", _columns(readings))


def read_refused(value: bytes) -> Refused:
    """What a record of `refused` carries."""
    batch = decode(log_pb2.RefusedBatch, value)
    refusals = tuple(
        Rejected(rejection.reason, rejection.reading_count, rejection.parameter, tuple(rejection.indexes))
        for rejection in batch.rejections
    )
    try:
        readings = read_columns(batch.readings)
    except InvalidArgument:
        readings = None
    return Refused(batch.gateway_id, batch.sequence, batch.region, batch.received_at_us, refusals, readings)


def write_dead(dead: Dead) -> bytes:
    """The record of `dead`."""
    return log_pb2.DeadRecord(**asdict(dead)).SerializeToString()


def read_dead(value: bytes) -> Dead:
    """What a record of `dead` carries."""
    record = decode(log_pb2.DeadRecord, value)
    return Dead(**{name: getattr(record, name) for name in Dead.__slots__})


def _columns(readings: Readings | ReadingColumns) -> bytes:
    return readings.SerializeToString() if isinstance(readings, ReadingColumns) else pack_columns(readings)


def _readings(record: str, columns: ReadingColumns) -> Readings:
    try:
        return read_columns(columns)
    except InvalidArgument as error:
        raise unreadable(record, error.message) from error
