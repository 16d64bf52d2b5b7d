"""HTTP/2 by hand, for what no gRPC library sends: halves of frames, and connections that say nothing (RFC 9113, RFC 7541)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from waterquality.v1 import ingest_pb2

from mesh.codec.columns import write_columns
from water.readings import Readings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
ACK, END_HEADERS = 1, 4
STREAM_BATCHES = "/waterquality.v1.IngestService/StreamBatches"


def http2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def call_headers(path: str, host: str) -> bytes:
    """A HEADERS frame that begins a gRPC call on stream 1; every field literal, none indexed."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": host}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    block = b"".join(b"\0" + _string(name) + _string(value) for name, value in fields.items())
    return http2_frame(HEADERS, END_HEADERS, 1, block)


def message(content: bytes) -> bytes:
    """A gRPC message: not compressed, its length, its bytes."""
    return b"\0" + len(content).to_bytes(4, "big") + content


def open_message(gateway_id: str, region: str = "north") -> bytes:
    """The message of the first frame."""
    frame = ingest_pb2.StreamBatchesRequest(open=ingest_pb2.StreamOpen(gateway_id=gateway_id, region=region))
    return message(frame.SerializeToString())


def batch_message(sequence: int, readings: Readings) -> bytes:
    """The message of a batch."""
    batch = ingest_pb2.Batch(sequence=sequence, readings=write_columns(readings))
    return message(ingest_pb2.StreamBatchesRequest(batch=batch).SerializeToString())


@asynccontextmanager
async def connection(target: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare TCP connection; at the end it is cut, not closed in order."""
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _string(text: str) -> bytes:
    assert len(text) < 127, "longer ones have a longer prefix"
    return bytes([len(text)]) + text.encode()
