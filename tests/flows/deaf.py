"""Gateways that send and never read: their acknowledgements soon fill what a transport takes unread."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import grpc
from waterquality.v1 import ingest_pb2, ingest_pb2_grpc
from waterquality.v1.reading_pb2 import ReadingColumns

from mesh.errors import WaterError, from_rpc
from tests.builders import START_US

SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]
STUCK_AFTER_S = 0.5


@dataclass(slots=True)
class Deaf:
    """One of them. Its readings are refused for two reasons in turn, which makes acknowledgements long."""

    gateway_id: str
    call: Any = None
    sent_s: float = field(default_factory=monotonic)

    @property
    def is_stuck(self) -> bool:
        """Whether nothing more could be sent for a while: the server has stopped reading, because nobody reads it."""
        return monotonic() > self.sent_s + STUCK_AFTER_S

    def frames(self) -> Iterator[ingest_pb2.StreamBatchesRequest]:
        """For ever; each is asked for when the one before is on its way."""
        yield ingest_pb2.StreamBatchesRequest(open=ingest_pb2.StreamOpen(gateway_id=self.gateway_id, region="north"))
        columns = ReadingColumns(sensor_id=[0, 4800] * 5000, measured_at_us=[START_US] * 10_000)
        batch = ingest_pb2.Batch(readings=columns)
        while True:
            self.sent_s = monotonic()
            batch.sequence += 1
            yield ingest_pb2.StreamBatchesRequest(batch=batch)


@contextmanager
def deaf_gateways(target: str, *gateway_ids: str) -> Iterator[list[Deaf]]:
    """They send. By the synchronous client: where a stream ends while the other one (grpc.aio) writes, that reports INTERNAL
    of its own instead of the server's status."""
    with grpc.insecure_channel(target, options=SMALL_WINDOW) as channel:
        gateways = [Deaf(gateway_id) for gateway_id in gateway_ids]
        for gateway in gateways:
            gateway.call = ingest_pb2_grpc.IngestServiceStub(channel).StreamBatches(gateway.frames(), timeout=60)
        yield gateways


def failure(responses: Any) -> WaterError:
    """Reads until the stream fails, and says how."""
    try:
        for _ in responses:
            pass
    except grpc.RpcError as error:
        return from_rpc(error)
    raise AssertionError("the stream ended well")
