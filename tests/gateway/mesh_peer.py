"""A server that speaks StreamBatches by hand, one script per stream, and notes every breach of the protocol by the gateway."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from waterquality.v1 import ingest_pb2
from waterquality.v1.ingest_pb2 import StreamBatchesRequest

from mesh.codec.columns import read_columns
from mesh.codec.gateway_frames import STREAM_BATCHES
from mesh.codec.ingest_frames import write_opened
from mesh.errors import Unavailable, WaterError
from mesh.server import end_call
from tests.builders import START_US
from water.readings import Readings

PATIENCE_S = 20.0
_NOT_LIMITED = 1 << 40


class ServedStream:
    """One call as the script sees it. Every wait has a deadline."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.opening = ingest_pb2.StreamOpen()
        self.batches: list[Readings] = []
        self.sizes: list[int] = []
        self.sequences: list[int] = []
        self.breaches: list[str] = []
        self.durable = 0
        self._window = (0, 0)
        self._widest = (0, 0)
        self._limits = (0, 0)

    async def open(
        self, window: tuple[int, int] = (64, _NOT_LIMITED), limits: tuple[int, int] = (10_000, 512 * 1024), now_us: int = START_US
    ) -> None:
        """Reads the first frame and says what may be sent: window in batches and bytes, a batch in readings and bytes."""
        frame = await self._read()
        assert frame is not None
        assert frame.WhichOneof("frame") == "open", "the first frame is not open"
        self.opening = frame.open
        self._window = self._widest = window
        self._limits = limits
        await self._context.write(write_opened(window, limits[0], limits[1], now_us))

    async def batch(self) -> int | None:
        """The sequence of the next batch; None at the half-close."""
        frame = await self._read()
        if frame is None:
            return None
        readings = read_columns(frame.batch.readings)
        self._judge(frame, len(readings))
        self.batches.append(readings)
        self.sizes.append(frame.ByteSize())
        self.sequences.append(frame.batch.sequence)
        return int(frame.batch.sequence)

    async def ack(
        self,
        sequence: int,
        rejections: Sequence[ingest_pb2.Rejection] = (),
        window: tuple[int, int] | None = None,
        position: str = "",
    ) -> None:
        """Acknowledges up to `sequence`; a smaller window binds what is sent after the next ack of everything."""
        self.durable = max(self.durable, sequence)
        ack = ingest_pb2.StreamAck(durable_sequence=sequence, rejections=rejections, position=position)
        if window is not None:
            ack.window_batches, ack.window_bytes = self._window = window
            self._widest = (max(window[0], self._widest[0]), max(window[1], self._widest[1]))
        await self._context.write(ingest_pb2.StreamBatchesResponse(ack=ack).SerializeToString())

    async def write(self, raw: bytes) -> None:
        """Any bytes."""
        await self._context.write(raw)

    async def fail(self, error: WaterError) -> None:
        """Ends the call with the error."""
        await end_call(self._context, error)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        """Ends the call with a status that is not ours."""
        await self._context.abort(code, details)

    async def acknowledge_the_rest(self) -> None:
        """Each batch at once, until the gateway half-closes."""
        while (sequence := await self.batch()) is not None:
            await self.ack(sequence, position=f"position-{sequence}")

    async def gone(self) -> None:
        """Waits until the gateway has given the call up."""
        async with asyncio.timeout(PATIENCE_S):
            done = asyncio.Event()
            self._context.add_done_callback(lambda _: done.set())
            await done.wait()

    async def _read(self) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            raw = await self._context.read()
        return None if raw is grpc.aio.EOF else StreamBatchesRequest.FromString(raw)

    def _judge(self, frame: StreamBatchesRequest, count: int) -> None:
        sequence = frame.batch.sequence
        if self.sequences and sequence != self.sequences[-1] + 1:
            self.breaches.append(f"sequence {sequence} after {self.sequences[-1]}")
        if count > self._limits[0] or frame.ByteSize() > self._limits[1]:
            self.breaches.append(f"batch of {count} readings, {frame.ByteSize()} bytes; limits {self._limits}")
        first = self.sequences[0] if self.sequences else sequence
        unacknowledged = [*self.sizes[max(0, self.durable - first + 1) :], frame.ByteSize()]
        if len(unacknowledged) > self._widest[0] or sum(unacknowledged) > self._widest[1]:
            self.breaches.append(f"{len(unacknowledged)} batches, {sum(unacknowledged)} bytes; window {self._widest}")


Script = Callable[[ServedStream], Awaitable[None]]


async def serve_all(stream: ServedStream) -> None:
    """The script of a healthy server."""
    await stream.open()
    await stream.acknowledge_the_rest()


def breaks_after(batches: int, acknowledged: int, error: WaterError | None = None) -> Script:
    """Reads so many batches, acknowledges some of them, and fails."""

    async def serve(stream: ServedStream) -> None:
        await stream.open()
        for _ in range(batches):
            await stream.batch()
        if acknowledged:
            await stream.ack(acknowledged)
        await stream.fail(error or Unavailable("broken by the test", retry_after_s=0.001))

    return serve


class MeshPeer:
    """Serves inside `async with`; stream n runs script n, later ones the last."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts or (serve_all,)
        self._server: Any = None
        self.streams: list[ServedStream] = []
        self.port = 0

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def breaches(self) -> list[str]:
        """What the gateway did against the protocol, over all streams."""
        return [breach for stream in self.streams for breach in stream.breaches]

    async def __aenter__(self) -> Self:
        method: Any = grpc.stream_stream_rpc_method_handler(self._handle)
        service, name = STREAM_BATCHES.removeprefix("/").split("/")
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 1024 * 1024), ("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._server.stop(0)

    async def _handle(self, _: Any, context: Any) -> None:
        stream = ServedStream(context)
        self.streams.append(stream)
        await self._scripts[min(len(self.streams), len(self._scripts)) - 1](stream)
