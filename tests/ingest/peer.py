"""A gateway that speaks StreamBatches by hand, so that tests can do what a well-behaved client never does."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from waterquality.v1 import ingest_pb2, ingest_pb2_grpc
from waterquality.v1.reading_pb2 import ReadingColumns

from ingest_svc.wiring import Accepting
from mesh.codec.columns import write_columns
from mesh.errors import WaterError, from_rpc
from water.readings import Readings

PATIENCE_S = 20.0


class Peer:
    """One call. Every read has a deadline, so that a server that forgets to answer fails the test."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.rejections: list[ingest_pb2.Rejection] = []
        self.position = ""
        self.durable_sequence = 0

    async def open(self, gateway_id: str = "g-1", region: str = "north", backfill: bool = False) -> ingest_pb2.StreamOpened:
        """Opens and reads `opened`."""
        opening = ingest_pb2.StreamOpen(gateway_id=gateway_id, region=region, backfill=backfill)
        await self.call.write(ingest_pb2.StreamBatchesRequest(open=opening))
        frame = await self.read()
        assert isinstance(frame, ingest_pb2.StreamBatchesResponse)
        return frame.opened

    async def send(self, sequence: int, readings: Readings | ReadingColumns) -> None:
        """Writes one batch."""
        columns = readings if isinstance(readings, ReadingColumns) else write_columns(readings)
        batch = ingest_pb2.Batch(sequence=sequence, readings=columns)
        await self.call.write(ingest_pb2.StreamBatchesRequest(batch=batch))

    async def read(self) -> Any:
        """The next frame, None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_S):
            frame = await self.call.read()
        return None if frame is grpc.aio.EOF else frame

    async def acknowledged(self, sequence: int) -> None:
        """Reads until `sequence` is durable, collecting rejections."""
        while self.durable_sequence < sequence:
            frame = await self.read()
            assert frame is not None, f"the stream ended before {sequence} was acknowledged"
            if frame.WhichOneof("frame") == "ack":
                assert frame.ack.durable_sequence >= self.durable_sequence, "an acknowledgement went back"
                self.durable_sequence = frame.ack.durable_sequence
                self.position = frame.ack.position or self.position
                self.rejections += frame.ack.rejections

    async def failure(self) -> WaterError:
        """Reads until the stream fails, and says how."""
        try:
            while await self.read() is not None:
                pass
        except grpc.aio.AioRpcError as error:
            return from_rpc(error)
        raise AssertionError(f"the stream ended with {await self.call.code()}, not with an error")


@asynccontextmanager
async def connected(target: str, streams: int = 1) -> AsyncIterator[Sequence[Peer]]:
    """Calls on one channel, cancelled at the end."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        calls = [stub.StreamBatches() for _ in range(streams)]
        try:
            yield [Peer(call) for call in calls]
        finally:
            for call in calls:
                call.cancel()


@asynccontextmanager
async def serving(accepting: Accepting) -> AsyncIterator[str]:
    """Serves it on a free loopback port and gives the address."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 1024 * 1024), ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((accepting.service.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
