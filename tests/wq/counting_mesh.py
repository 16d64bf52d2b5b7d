"""A small server of the contract, in threads, for commands under test: keeps what it is sent, and counts it in a ledger.

Not the mesh: no log, no stages, no durability. It exists to show a command an honest ledger, and ledgers that are not.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from waterquality.v1 import ingest_pb2, ledger_pb2

from mesh.codec.columns import read_columns
from water.readings import Readings, concatenate, empty

NO_VALUES = ingest_pb2.REJECTION_REASON_NO_VALUES


class CountingMesh:
    """Serves inside `with`. `forgets` readings are missing in the ledger; the first `cuts` streams end after their first batch,
    which is kept but not acknowledged; `is_behind`: the ledger never catches up."""

    def __init__(self, forgets: int = 0, cuts: int = 0, is_behind: bool = False) -> None:
        self.forgets = forgets
        self.cuts = cuts
        self.is_behind = is_behind
        self.openings: list[ingest_pb2.StreamOpen] = []
        self.batches: list[Readings] = []
        self.has_batches = Event()
        self.counts: Counter[str] = Counter()
        self.positions: list[str] = []
        self._stored: dict[tuple[int, int], bytes] = {}
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self.target = ""

    def __enter__(self) -> Self:
        ingest = grpc.stream_stream_rpc_method_handler(
            self._stream, ingest_pb2.StreamBatchesRequest.FromString, ingest_pb2.StreamBatchesResponse.SerializeToString
        )
        ledger = grpc.unary_unary_rpc_method_handler(
            self._ledger, ledger_pb2.GetLedgerRequest.FromString, ledger_pb2.GetLedgerResponse.SerializeToString
        )
        for service, method, handler in (("Ingest", "StreamBatches", ingest), ("Ledger", "GetLedger", ledger)):
            generic = grpc.method_handlers_generic_handler(f"waterquality.v1.{service}Service", {method: handler})
            self._server.add_generic_rpc_handlers((generic,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stop(0).wait()

    @property
    def readings(self) -> Readings:
        """Everything that has come, resends too."""
        return concatenate(self.batches) if self.batches else empty()

    def _stream(self, request_iterator: Iterator[Any], context: Any) -> Iterator[ingest_pb2.StreamBatchesResponse]:
        """Accepts what has a value."""
        self.openings.append(next(request_iterator).open)
        opened = ingest_pb2.StreamOpened(
            window_batches=16, window_bytes=1 << 23, max_batch_readings=10_000, max_batch_bytes=512 * 1024
        )
        opened.server_time.GetCurrentTime()
        yield ingest_pb2.StreamBatchesResponse(opened=opened)
        for frame in request_iterator:
            refused = self._keep(read_columns(frame.batch.readings))
            if self.cuts:
                self.cuts -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            ack = ingest_pb2.StreamAck(durable_sequence=frame.batch.sequence, position=f"position-{len(self.batches)}")
            if len(refused):
                ack.rejections.add(
                    sequence=frame.batch.sequence, reason=NO_VALUES, reading_count=len(refused), indexes=refused.tolist()
                )
            yield ingest_pb2.StreamBatchesResponse(ack=ack)

    def _ledger(self, request: ledger_pb2.GetLedgerRequest, context: Any) -> ledger_pb2.GetLedgerResponse:
        """One entry."""
        self.positions = list(request.at_least)
        entry = ledger_pb2.LedgerEntry(
            gateway_id=request.gateway_ids[0] if request.gateway_ids else "gateway",
            sent_count=self.counts["accepted"] + self.counts["refused"],
            accepted_count=self.counts["accepted"] - (self.forgets if self.counts["accepted"] else 0),
            stored_count=self.counts["stored"] - (self.forgets if self.counts["accepted"] else 0),
            duplicate_count=self.counts["duplicate"],
            conflicting_count=self.counts["conflicting"],
        )
        entry.hour_time.FromJsonString("2026-01-01T00:00:00Z")
        if self.counts["refused"]:
            entry.refused.add(reason=NO_VALUES, count=self.counts["refused"])
        return ledger_pb2.GetLedgerResponse(entries=[entry], caught_up=not self.is_behind, balanced=True)

    def _keep(self, readings: Readings) -> np.ndarray:
        """Counts the readings; indexes of those without a value."""
        self.batches.append(readings)
        self.has_batches.set()
        has_value = ~np.isnan(readings.values).all(axis=0)
        for index in np.flatnonzero(has_value):
            key = (int(readings.sensor_id[index]), int(readings.measured_at_us[index]))
            value = readings.values[:, index].tobytes()
            known = self._stored.setdefault(key, value)
            is_new = known is value
            self.counts["stored" if is_new else "duplicate" if known == value else "conflicting"] += 1
        self.counts["accepted"] += int(has_value.sum())
        self.counts["refused"] += int((~has_value).sum())
        return np.flatnonzero(~has_value)
