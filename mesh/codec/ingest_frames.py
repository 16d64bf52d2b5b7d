"""Frames of StreamBatches and SubmitBatch <-> what ingest_svc works with. Garbage becomes InvalidArgument."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from waterquality.v1.ingest_pb2 import (
    StreamAck,
    StreamBatchesRequest,
    StreamBatchesResponse,
    StreamClosing,
    StreamOpen,
    StreamOpened,
    SubmitBatchRequest,
    SubmitBatchResponse,
)
from waterquality.v1.reading_pb2 import ReadingColumns

from mesh.codec.columns import longest_column, read_columns, unequal_columns
from mesh.codec.rejections import Refusal, write_rejections
from mesh.errors import InvalidArgument
from water.readings import Readings

_GATEWAY = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REGION = re.compile(r"[a-z0-9_-]{1,20}")


class Opening(NamedTuple):
    """The first frame: who sends, from where, in which lane."""

    gateway_id: str
    region: str
    backfill: bool


@dataclass(frozen=True, slots=True)
class Unequal:
    """A batch whose columns differ in length: nobody can say which value belongs to which reading."""

    count: int
    source: object


class BatchFrame(NamedTuple):
    """A batch as it came: its number, its readings, their bytes on the wire."""

    sequence: int
    batch: Readings | Unequal
    size_bytes: int


def read_frame(raw: bytes) -> Opening | BatchFrame | None:
    """One frame of a gateway; None for a frame that carries nothing. Raises InvalidArgument (UNREADABLE_FRAME, INVALID_GATEWAY,
    INVALID_REGION)."""
    frame = StreamBatchesRequest()
    try:
        frame.ParseFromString(raw)
    except DecodeError:
        raise _unreadable("StreamBatchesRequest") from None
    match frame.WhichOneof("frame"):
        case "open":
            return _opening(frame.open, "open")
        case "batch":
            return BatchFrame(frame.batch.sequence, read_batch(frame.batch.readings), len(raw))
        case _:
            return None


def read_submission(raw: bytes) -> tuple[Opening, BatchFrame]:
    """One SubmitBatchRequest; raises as `read_frame`."""
    request = SubmitBatchRequest()
    try:
        request.ParseFromString(raw)
    except DecodeError:
        raise _unreadable("SubmitBatchRequest") from None
    return _opening(request.open, "open"), BatchFrame(0, read_batch(request.readings), len(raw))


def read_batch(message: ReadingColumns) -> Readings | Unequal:
    """The readings of a batch, or that its columns are unequal."""
    return Unequal(longest_column(message), message) if unequal_columns(message) else read_columns(message)


def write_opened(window: tuple[int, int], max_batch_readings: int, max_batch_bytes: int, now_us: int) -> bytes:
    """The server's first frame; `window` is batches and bytes."""
    now = Timestamp()
    now.FromMicroseconds(now_us)
    opened = StreamOpened(
        window_batches=window[0],
        window_bytes=window[1],
        max_batch_readings=max_batch_readings,
        max_batch_bytes=max_batch_bytes,
        server_time=now,
    )
    return StreamBatchesResponse(opened=opened).SerializeToString()


def write_ack(
    durable_sequence: int, refused: Iterable[tuple[int, Refusal]], position: str, window: tuple[int, int] | None
) -> bytes:
    """An acknowledgement with the refusals (by sequence) since the last one; `window` only where it changed."""
    ack = StreamAck(durable_sequence=durable_sequence, position=position, rejections=write_rejections(refused))
    if window is not None:
        ack.window_batches, ack.window_bytes = window
    return StreamBatchesResponse(ack=ack).SerializeToString()


def write_closing(grace_s: float) -> bytes:
    """The server is draining."""
    grace = Duration()
    grace.FromMicroseconds(round(grace_s * 1e6))
    return StreamBatchesResponse(closing=StreamClosing(grace_duration=grace)).SerializeToString()


def write_submitted(refused: Iterable[tuple[int, Refusal]], position: str) -> bytes:
    """The answer to SubmitBatch."""
    return SubmitBatchResponse(rejections=write_rejections(refused), position=position).SerializeToString()


def _opening(message: StreamOpen, path: str) -> Opening:
    if not _GATEWAY.fullmatch(message.gateway_id):
        problem = f"{message.gateway_id[:80]!r} must be 1 to 64 characters of a-z, A-Z, 0-9, dot, dash and underscore"
        field = f"{path}.gateway_id"
        raise InvalidArgument(f"{field}: {problem}", reason="INVALID_GATEWAY", fields={field: problem})
    if not _REGION.fullmatch(message.region):
        problem = f"{message.region[:80]!r} must be 1 to 20 characters of a-z, 0-9, dash and underscore"
        field = f"{path}.region"
        raise InvalidArgument(f"{field}: {problem}", reason="INVALID_REGION", fields={field: problem})
    return Opening(message.gateway_id, message.region, message.backfill)


def _unreadable(expected: str) -> InvalidArgument:
    return InvalidArgument(f"the bytes are no {expected} message of waterquality.v1", reason="UNREADABLE_FRAME")
