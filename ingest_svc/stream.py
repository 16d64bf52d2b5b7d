"""One gateway's open stream: reads frames into the Log, and acknowledges what is durable, in order, spaced."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ingest_svc.accept import Acceptor, Handed
from ingest_svc.judge import Refusal
from ingest_svc.window import Pace, Window
from mesh.codec.ingest_frames import BatchFrame, Opening, read_frame
from mesh.errors import InvalidArgument, Unavailable, WaterError
from mesh.ports import Clock

ACK_EVERY_BATCHES = 10
ACK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything up to `durable_sequence` is durable; `window` only where it changed."""

    durable_sequence: int
    refused: tuple[tuple[int, Refusal], ...]
    position: str
    window: Window | None


class Stream:
    """`run` returns when the gateway has half-closed and everything is acknowledged; any error ends it after the last ack.

    `receive` gives the next frame or None at a half-close, `send` writes an ack; both raise what their transport raises.
    """

    def __init__(
        self,
        opening: Opening,
        acceptor: Acceptor,
        clock: Clock,
        window: Window,
        receive: Callable[[], Awaitable[bytes | None]],
        send: Callable[[Ack], Awaitable[None]],
    ) -> None:
        self._opening = opening
        self._acceptor = acceptor
        self._clock = clock
        self._receive = receive
        self._send = send
        self._pace = Pace(window)
        self._pending: deque[Handed] = deque()
        self._unacknowledged = Window(0, 0)
        self._progress = asyncio.Event()
        self._ended: WaterError | bool = False
        self._expected: int | None = None

    async def run(self) -> None:
        """Reads and acknowledges until the stream ends."""
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read())
            failure = await self._acknowledge()
            reader.cancel()
        if failure:
            raise failure

    def end(self, error: WaterError) -> None:
        """Stops the stream from outside: what is durable is still acknowledged, then `run` raises the error."""
        self._ended = self._ended or error
        self._progress.set()

    async def _read(self) -> None:
        try:
            while await self._read_one():
                pass
            self._ended = self._ended or True
        except WaterError as error:
            self._ended = self._ended or error
        finally:
            self._progress.set()

    async def _read_one(self) -> bool:
        """Takes one batch in; False where no more come. Apart from the loop, so that a stream that waits holds no batch."""
        raw = await self._receive()
        if raw is None or self._ended:
            return False
        async with self._acceptor.room:
            frame = _batch(read_frame(raw))
            self._check(frame, self._expected)
            self._expected = frame.sequence + 1
            self._queue(await self._acceptor.hand_over(self._opening, frame))
        return True

    def _check(self, frame: BatchFrame, expected: int | None) -> None:
        if frame.sequence <= 0 or (expected is not None and frame.sequence != expected):
            wanted = "a positive number" if expected is None else str(expected)
            raise InvalidArgument(
                f"batch.sequence is {frame.sequence}, expected {wanted}: open a new stream and resend from there",
                reason="SEQUENCE_GAP",
                fields={"batch.sequence": f"expected {wanted}"},
            )
        if self._unacknowledged.batches >= self._pace.largest.batches:
            raise InvalidArgument(
                f"batch {frame.sequence} exceeds the window of {self._pace.largest.batches} unacknowledged batches",
                reason="WINDOW_EXCEEDED",
            )
        if self._unacknowledged.byte_count + frame.size_bytes > self._pace.largest.byte_count:
            raise InvalidArgument(
                f"batch {frame.sequence} exceeds the window of {self._pace.largest.byte_count} unacknowledged bytes",
                reason="WINDOW_EXCEEDED",
            )

    def _queue(self, handed: Handed) -> None:
        self._count(1, handed.size_bytes)
        self._pending.append(handed)
        for delivery in handed.deliveries:
            delivery.add_done_callback(lambda _: self._progress.set())
        if not handed.deliveries:
            self._progress.set()

    def _count(self, batches: int, byte_count: int) -> None:
        now = self._unacknowledged
        self._unacknowledged = Window(now.batches + batches, now.byte_count + byte_count)

    async def _acknowledge(self) -> WaterError | None:
        """Writes acks over the contiguous durable prefix: one per ACK_EVERY_BATCHES or ACK_EVERY_S, and always the last.
        Returns why the stream ended, None where the gateway ended it."""
        while True:
            await self._progress.wait()
            self._progress.clear()
            if self._done_count() < ACK_EVERY_BATCHES and not self._ended:
                await self._clock.sleep(ACK_EVERY_S)
            failure = await self._acknowledge_prefix()
            if failure:
                return failure
            if isinstance(self._ended, WaterError) and not (self._pending and self._must_wait()):
                return self._ended
            if self._ended is True and not self._pending:
                return None

    def _must_wait(self) -> bool:
        """A broken frame of the gateway's ends the stream only after what came before it; our own faults at once."""
        return isinstance(self._ended, InvalidArgument)

    def _done_count(self) -> int:
        count = 0
        for handed in self._pending:
            if not handed.is_done:
                break
            count += 1
        return count

    async def _acknowledge_prefix(self) -> WaterError | None:
        """Acknowledges what is durable; the error of the first delivery that failed, if one did."""
        refused: list[tuple[int, Refusal]] = []
        last: Handed | None = None
        offset: int | None = None
        failure: WaterError | None = None
        released = Window(0, 0)
        while self._pending and self._pending[0].is_done and failure is None:
            handed = self._pending[0]
            failure = next((_failure(delivery) for delivery in handed.deliveries if _failure(delivery)), None)
            if failure is None:
                last = self._pending.popleft()
                released = Window(released.batches + 1, released.byte_count + last.size_bytes)
                refused += [(last.sequence, refusal) for refusal in last.refusals]
                offset = last.accepted.result() if last.accepted else offset
        if last is not None:
            window = self._pace.adapt(self._clock.now_us() - last.handed_at_us)
            position = "" if offset is None else self._acceptor.position(self._opening, offset)
            # Released before it is written: the gateway may use it the moment the ack arrives.
            self._count(-released.batches, -released.byte_count)
            try:
                await self._send(Ack(last.sequence, tuple(refused), position, window))
            except WaterError as error:
                return error
        return failure


def _batch(frame: Opening | BatchFrame | None) -> BatchFrame:
    if isinstance(frame, Opening):
        raise InvalidArgument("a second open frame: open once, then send batches", reason="OPENED_TWICE")
    if frame is None:
        raise InvalidArgument("a frame without open or batch", reason="UNREADABLE_FRAME")
    return frame


def _failure(delivery: asyncio.Future[int]) -> WaterError | None:
    if delivery.cancelled():
        return Unavailable("the log's writer stopped: resend on a new stream", reason="LOG_UNAVAILABLE")
    error = delivery.exception()
    if error is None or isinstance(error, WaterError):
        return error
    return Unavailable(f"the log failed: {error!r}", reason="LOG_UNAVAILABLE")
