"""One stream of one lane, from open to its end: sends what the buffer holds within the windows, and takes the answers in."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc

from mesh.codec.gateway_frames import (
    MAX_FRAME_OVERHEAD_BYTES,
    Acknowledged,
    Closing,
    Opened,
    batch_frame,
    read_answer,
)
from mesh.codec.packed import MAX_READING_BYTES
from mesh.errors import Fault, Unavailable
from mesh.gateway_buffer import GatewayBuffer, Launched, PackedBatch
from mesh.gateway_ending import Ending, EndWatch
from mesh.gateway_settings import GatewaySettings

_DEFAULT_BATCH_READINGS = 10_000
_DEFAULT_BATCH_BYTES = 512 * 1024


class Pulse:
    """Wakes everybody who waits for a change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        """Something changed: look again."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def next(self, timeout_s: float | None = None) -> None:
        """Waits for the next beat, at most that long."""
        event = self._event
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()


class GatewayStream:
    """Lives for one call. `converse` returns how it ended; what is not acknowledged then is still in the buffer, in order."""

    def __init__(
        self,
        call: Any,
        settings: GatewaySettings,
        buffer: GatewayBuffer,
        pulse: Pulse,
        acknowledged: Callable[[Acknowledged, list[Launched], dict[int, int]], None],
        max_batch_readings: int,
    ) -> None:
        self._call = call
        self._answers = aiter(call)  # not call.read(), which forgets acks that are there already when a write has failed
        self._end = EndWatch(call)
        self._settings = settings
        self._buffer = buffer
        self._pulse = pulse
        self._acknowledged = acknowledged
        self._max_readings = max_batch_readings
        self._max_bytes = 0
        self._refused: dict[int, list[tuple[int, int]]] = {}
        self._sequence = 0
        self._durable = 0
        self._is_closing = False
        self._is_half_closed = False
        self._silence = asyncio.timeout(None)
        self.window_batches = 0
        self.window_bytes = 0

    async def open(self, opening: bytes) -> Opened | Ending:
        """Says who we are and waits for the server's limits."""
        within_s = self._settings.connect_timeout_s
        try:
            async with asyncio.timeout(within_s):
                with contextlib.suppress(asyncio.InvalidStateError):  # ended already: read says why
                    await self._call.write(opening)
                raw = await anext(self._answers, None)
        except TimeoutError:
            return Ending(
                Unavailable(f"{self._settings.target} did not open a stream within {within_s:g} s", reason="NOT_OPENED")
            )
        except grpc.aio.AioRpcError as failure:
            return await self._end.ending(failure)
        opened = read_answer(raw) if raw is not None else None
        if not isinstance(opened, Opened):
            return Ending(Unavailable(f"{self._settings.target} did not answer with `opened`", reason="NOT_OPENED"))
        self.window_batches, self.window_bytes = opened.window_batches, opened.window_bytes
        self._max_readings = min(self._max_readings, opened.max_batch_readings or _DEFAULT_BATCH_READINGS)
        self._max_bytes = opened.max_batch_bytes or _DEFAULT_BATCH_BYTES
        return opened

    async def converse(self) -> Ending:
        """Sends and listens until either side ends it."""
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(self._write())
            ending = await self._listen()
            writing.cancel()
        return ending

    async def close(self) -> None:
        """Gives the call up, where it has not ended."""
        self._call.cancel()
        await self._answers.aclose()

    async def _write(self) -> None:
        """Sends until the server closes or we have finished. A broken stream is told by `_listen`, which learns why."""
        try:
            while not self._is_closing:
                if (batch := self._sendable()) is not None:
                    await self._send(batch)
                elif self._buffer.is_done:
                    break
                else:
                    self._watch()
                    await self._pulse.next(self._due_in_s() or None)  # due now but not sendable: until a window opens
            self._is_half_closed = True
            self._watch()
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    def _sendable(self) -> PackedBatch | None:
        """The next batch, where one is due and the windows have room for it."""
        size = self._size()
        if size < 1 or len(self._buffer.in_flight) >= self.window_batches or self._due_in_s() != 0.0:
            return None
        batch = self._buffer.head(size)
        room = self.window_bytes - self._buffer.in_flight_bytes
        return batch if len(batch.columns) + MAX_FRAME_OVERHEAD_BYTES <= room else None

    def _size(self) -> int:
        """Readings that a batch may have now, so that it is within every limit whatever its columns; 0: pause."""
        room = min(self._max_bytes, self.window_bytes) - 2 * MAX_FRAME_OVERHEAD_BYTES
        return min(self._max_readings, room // MAX_READING_BYTES)

    def _due_in_s(self) -> float | None:
        return self._buffer.due_in_s(max(1, self._size()), _now_s(), self._settings.max_batch_age_s)

    async def _send(self, batch: PackedBatch) -> None:
        self._sequence += 1
        frame = batch_frame(self._sequence, batch.columns)
        self._buffer.launch(self._sequence, len(frame), _now_s())
        if len(self._buffer.in_flight) == 1:
            self._watch()
        await self._call.write(frame)

    async def _listen(self) -> Ending:
        try:
            async with self._silence:
                async for raw in self._answers:
                    if (problem := self._take(raw)) is not None:
                        return problem
                    self._watch(heard=True)
        except TimeoutError:
            return self._fell_silent()
        except grpc.aio.AioRpcError as failure:
            return await self._end.ending(failure)
        ended = Unavailable("the server ended the stream", reason="STREAM_ENDED")
        return Ending(ended, is_orderly=self._is_half_closed)

    def _take(self, raw: bytes) -> Ending | None:
        try:
            answer = read_answer(raw)
        except Fault as error:
            return Ending(error)
        if isinstance(answer, Closing):
            self._is_closing = True
            self._silence.reschedule(_now_s() + answer.grace_s)
        elif isinstance(answer, Acknowledged):
            if answer.durable_sequence > self._sequence:
                problem = f"the server acknowledged batch {answer.durable_sequence}, but the last one sent is {self._sequence}"
                return Ending(Fault(problem, reason="ACKNOWLEDGED_UNSENT"))
            self._take_ack(answer)
        self._pulse.beat()
        return None

    def _take_ack(self, ack: Acknowledged) -> None:
        """Refusals count when their batch is durable: those of a batch that must be sent again come again."""
        for sequence, reason, count in ack.refused:
            self._refused.setdefault(sequence, []).append((reason, count))
        if ack.window_batches is not None:
            self.window_batches = ack.window_batches
        if ack.window_bytes is not None:
            self.window_bytes = ack.window_bytes
        self._durable = max(self._durable, ack.durable_sequence)
        refused: dict[int, int] = {}
        for sequence in sorted(number for number in self._refused if number <= self._durable):
            for reason, count in self._refused.pop(sequence):
                refused[reason] = refused.get(reason, 0) + count
        self._acknowledged(ack, self._buffer.acknowledge(self._durable), refused)

    def _watch(self, heard: bool = False) -> None:
        """The server must say something within `ack_timeout_s` while we wait for an ack, a window or its half of the end."""
        if self._is_closing or self._silence.expired():
            return
        is_paused = self._buffer.buffered > 0 and (self.window_batches < 1 or self._size() < 1)
        if not (self._buffer.in_flight or is_paused or self._is_half_closed):
            self._silence.reschedule(None)
        elif heard or self._silence.when() is None:
            self._silence.reschedule(_now_s() + self._settings.ack_timeout_s)

    def _fell_silent(self) -> Ending:
        if self._is_closing:
            return Ending(Unavailable("the server closed; its grace is over", reason="STREAM_ENDED"), is_orderly=True)
        within_s, batches = self._settings.ack_timeout_s, len(self._buffer.in_flight)
        problem = f"nothing came from {self._settings.target} for {within_s:g} s while {batches} batches were unacknowledged"
        return Ending(Unavailable(problem, reason="NO_ACKNOWLEDGEMENT"))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
