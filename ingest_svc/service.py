"""IngestService on the wire: bytes in and out, the open frame, closing. Everything else is accept.py and stream.py."""

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc

from ingest_svc.accept import Acceptor
from ingest_svc.judge import Limits
from ingest_svc.open_streams import OpenStreams
from ingest_svc.stream import Ack, Stream
from ingest_svc.window import Window
from mesh.codec.ingest_frames import (
    Opening,
    read_frame,
    read_submission,
    write_ack,
    write_closing,
    write_opened,
    write_submitted,
)
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Clock
from mesh.server import answers

NAME = "waterquality.v1.IngestService"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a stream may wait before its first frame, and how long a gateway may leave an acknowledgement unread."""

    open_s: float = 30.0
    ack_read_s: float = 30.0


class IngestService:
    """Both RPCs take bytes and decode them here, so that garbage gets an error of ours and parsing is ours to time."""

    def __init__(
        self,
        acceptor: Acceptor,
        clock: Clock,
        limits: Limits,
        window: Window,
        streams: OpenStreams,
        patience: Patience,
    ) -> None:
        self._acceptor = acceptor
        self._clock = clock
        self._limits = limits
        self._window = window
        self._streams = streams
        self._patience = patience

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server is given to serve this."""
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "StreamBatches": grpc.stream_stream_rpc_method_handler(self.stream_batches),
                "SubmitBatch": grpc.unary_unary_rpc_method_handler(self.submit_batch),
            },
        )

    @answers
    async def submit_batch(self, request: bytes, context: Any) -> bytes:
        """SubmitBatch: returns when the batch is durable."""
        self._streams.admit()
        async with self._acceptor.room:
            opening, frame = read_submission(request)
            handed = await self._acceptor.hand_over(opening, frame)
            del frame  # not kept while the Log is slow
        for delivery in handed.deliveries:
            await asyncio.shield(delivery)
        position = self._acceptor.position(opening, handed.accepted.result()) if handed.accepted else ""
        return write_submitted(((0, refusal) for refusal in handed.refusals), position)

    @answers
    async def stream_batches(self, requests: object, context: Any) -> None:
        """StreamBatches: opened, then acks until the gateway half-closes, and one closing if the server drains meanwhile."""
        self._streams.admit()
        wire = Wire(context, self._patience)
        opening = await wire.opening()
        self._streams.admit()  # again: a drain may have begun meanwhile
        stream = Stream(opening, self._acceptor, self._clock, self._window, wire.receive, wire.send_ack)
        with self._streams.newest(opening, stream, wire.send_closing):
            window = (self._window.batches, self._window.byte_count)
            limits = self._limits
            await wire.send(write_opened(window, limits.max_batch_readings, limits.max_batch_bytes, self._clock.now_us()))
            await stream.run()


class Wire:
    """One StreamBatches call as frames. Every write has a deadline: a gateway that never reads is let go."""

    def __init__(self, context: Any, patience: Patience) -> None:
        self._context = context
        self._patience = patience
        self._writing = asyncio.Lock()
        self._is_stuck = False

    async def opening(self) -> Opening:
        """The first frame, which must be `open`."""
        try:
            async with asyncio.timeout(self._patience.open_s):
                raw = await self._context.read()
        except TimeoutError:
            raise _not_opened(f"no frame came within {self._patience.open_s:g} s") from None
        frame = None if raw is grpc.aio.EOF else read_frame(raw)
        if not isinstance(frame, Opening):
            raise _not_opened("the first frame is " + ("a batch" if frame else "missing"))
        return frame

    async def receive(self) -> bytes | None:
        """The next frame; None: the gateway has half-closed."""
        raw = await self._context.read()
        return None if raw is grpc.aio.EOF else raw

    async def send_ack(self, ack: Ack) -> None:
        """Writes an ack."""
        window = (ack.window.batches, ack.window.byte_count) if ack.window else None
        await self.send(write_ack(ack.durable_sequence, ack.refused, ack.position, window))

    async def send_closing(self, grace_s: float) -> None:
        """Says that the server is draining."""
        await self.send(write_closing(grace_s))

    async def send(self, frame: bytes) -> None:
        """Writes one frame; raises Unavailable (ACKS_NOT_READ) when the gateway does not read."""
        try:
            async with asyncio.timeout(self._patience.ack_read_s), self._writing:
                if self._is_stuck:
                    raise TimeoutError
                self._is_stuck = True  # gRPC cannot take back a write that was given up, nor begin another one behind it
                await self._context.write(frame)
                self._is_stuck = False
        except TimeoutError:
            problem = f"acks were not read for {self._patience.ack_read_s:g} s"
            raise Unavailable(problem, reason="ACKS_NOT_READ") from None


def _not_opened(what: str) -> InvalidArgument:
    problem = f"{what}; the first frame must be open, with gateway_id and region"
    return InvalidArgument(problem, reason="NOT_OPENED", fields={"open": problem})
