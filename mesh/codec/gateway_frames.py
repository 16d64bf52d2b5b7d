"""Frames of StreamBatches as a gateway writes and reads them (mesh/codec/ingest_frames.py is the server's side)."""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from waterquality.v1.ingest_pb2 import Batch, RejectionReason, StreamBatchesRequest, StreamBatchesResponse, StreamOpen
from waterquality.v1.reading_pb2 import ReadingColumns

from mesh.codec.columns import read_columns
from mesh.codec.packed import MAX_COLUMNS_BYTES, varint
from mesh.errors import Fault
from water.readings import Readings

STREAM_BATCHES = "/waterquality.v1.IngestService/StreamBatches"
MAX_FRAME_OVERHEAD_BYTES = MAX_COLUMNS_BYTES + 32
"""What a batch frame takes at most beyond its readings (packed.MAX_READING_BYTES each)."""

_LENGTH_DELIMITED = 2
_BATCH = bytes([StreamBatchesRequest.DESCRIPTOR.fields_by_name["batch"].number << 3 | _LENGTH_DELIMITED])
_SEQUENCE = bytes([Batch.DESCRIPTOR.fields_by_name["sequence"].number << 3])
_READINGS = bytes([Batch.DESCRIPTOR.fields_by_name["readings"].number << 3 | _LENGTH_DELIMITED])


@dataclass(frozen=True, slots=True)
class Opened:
    """How much may be sent, and the server's clock. A limit of 0 was not given."""

    window_batches: int
    window_bytes: int
    max_batch_readings: int
    max_batch_bytes: int
    server_time_us: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Everything up to `durable_sequence` is durable. `refused`: (sequence, RejectionReason number, readings). A window that
    did not change is None."""

    durable_sequence: int
    refused: tuple[tuple[int, int, int], ...]
    position: str
    window_batches: int | None
    window_bytes: int | None


@dataclass(frozen=True, slots=True)
class Closing:
    """The server is about to go: no new batch; acknowledgements come for `grace_s` more."""

    grace_s: float


def open_frame(gateway_id: str, region: str, backfill: bool) -> bytes:
    """The first frame of a stream."""
    opening = StreamOpen(gateway_id=gateway_id, region=region, backfill=backfill)
    return StreamBatchesRequest(open=opening).SerializeToString()


def batch_frame(sequence: int, columns: bytes) -> bytes:
    """A numbered batch around packed columns (packed.pack_columns), which are copied once and never parsed."""
    head = b"".join((_SEQUENCE, varint(sequence), _READINGS, varint(len(columns))))
    return b"".join((_BATCH, varint(len(head) + len(columns)), head, columns))


def unpack_columns(columns: bytes) -> Readings:
    """The readings again, for the rare batch that has to be cut smaller."""
    return read_columns(ReadingColumns.FromString(columns))


def read_answer(raw: bytes) -> Opened | Acknowledged | Closing | None:
    """A frame of the server; None for one of a kind that is not known yet. Raises Fault for bytes that are no frame."""
    try:
        frame = StreamBatchesResponse.FromString(raw)
    except DecodeError:
        raise Fault(f"{len(raw)} bytes from the server are no StreamBatchesResponse") from None
    match frame.WhichOneof("frame"):
        case "opened":
            limits = frame.opened
            server_time_us = limits.server_time.ToMicroseconds()
            return Opened(
                limits.window_batches, limits.window_bytes, limits.max_batch_readings, limits.max_batch_bytes, server_time_us
            )
        case "ack":
            ack = frame.ack
            return Acknowledged(
                ack.durable_sequence,
                tuple((rejection.sequence, int(rejection.reason), rejection.reading_count) for rejection in ack.rejections),
                ack.position,
                ack.window_batches if ack.HasField("window_batches") else None,
                ack.window_bytes if ack.HasField("window_bytes") else None,
            )
        case "closing":
            return Closing(frame.closing.grace_duration.ToMicroseconds() / 1e6)
        case _:
            return None


def reason_names(refused: Mapping[int, int]) -> dict[str, int]:
    """Readings by RejectionReason number -> by name (IN_THE_FUTURE ...); unknown numbers are UNSPECIFIED."""
    names: dict[str, int] = {}
    known = RejectionReason.DESCRIPTOR.values_by_number
    for number, count in sorted(refused.items()):
        name = known[number].name if number in known else known[0].name
        short = name.removeprefix("REJECTION_REASON_")
        names[short] = names.get(short, 0) + count
    return names
