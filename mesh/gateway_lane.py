"""One lane of a gateway: its buffer, and stream after stream until everything is acknowledged or it must stop."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import structlog

from mesh.codec.gateway_frames import STREAM_BATCHES, Acknowledged, Opened, open_frame
from mesh.errors import FailedPrecondition, Fault, Unavailable, WaterError
from mesh.gateway_buffer import GatewayBuffer, Launched, part
from mesh.gateway_ending import Ending, wait_before
from mesh.gateway_settings import CLOCK_FAULT_S, Acknowledgement, GatewaySettings, LaneStatistics
from mesh.gateway_stream import GatewayStream, Pulse
from mesh.ports import Clock
from mesh.routed import TAKE_TURNS, target_for
from water.readings import Readings

_log = structlog.get_logger()
# A connection of its own: neither lane waits for the other's bytes. Where there are several servers, streams take turns.
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), TAKE_TURNS)


class GatewayLane:
    """`run` opens the first stream when readings are first handed over, and returns when the buffer is complete and empty, or
    after a final error, which every later call raises."""

    def __init__(
        self,
        settings: GatewaySettings,
        backfill: bool,
        clock: Clock,
        rng: random.Random,
        on_ack: Callable[[Acknowledgement], None] | None,
    ) -> None:
        self.name = "backfill" if backfill else "live"
        self._settings = settings
        self._backfill = backfill
        self._clock = clock
        self._rng = rng
        self._on_ack = on_ack
        self._buffer = GatewayBuffer()
        self._pulse = Pulse()
        self._stream: GatewayStream | None = None
        self._failure: WaterError | None = None
        self._max_batch_readings = settings.max_batch_readings
        self._refused: dict[int, int] = {}
        self._streams = 0
        self._position = ""
        self._round_trip_s: float | None = None
        self._clock_drift_s: float | None = None
        self._last_error = ""

    async def hand_over(self, readings: Readings) -> None:
        """Returns when all of them are in the buffer; waits for room where that is the policy. Raises what stopped the lane."""
        start, limit = 0, self._settings.buffer_readings
        while True:
            self._check()
            stop = len(readings) if self._settings.when_full == "drop_oldest" else start + limit - self._buffer.buffered
            if stop > start:
                taken = readings if start == 0 and stop >= len(readings) else part(readings, start, stop)
                self._buffer.hand_over(taken, asyncio.get_running_loop().time())
                self._pulse.beat()
                start = stop
            if start >= len(readings):
                break
            await self._pulse.next()
        self._buffer.drop_oldest(limit)

    async def flush(self) -> None:
        """Returns when what was handed over by now is acknowledged or dropped. Raises what stopped the lane, if any is left."""
        wanted = self._buffer.handed_over
        self._buffer.hurry_before = max(wanted, self._buffer.hurry_before)
        self._pulse.beat()
        while self._buffer.oldest < wanted:
            self._check()
            await self._pulse.next()

    def finish(self) -> None:
        """Nothing more comes: the stream half-closes after the last acknowledgement, and `run` returns."""
        self._buffer.is_complete = True
        self._pulse.beat()

    def stopped(self, task: asyncio.Task[None]) -> None:
        """The task of `run` has ended: whoever still waits learns why."""
        crash = None if task.cancelled() else task.exception()
        if self._failure is None:
            gone = FailedPrecondition("the gateway is closed", reason="GATEWAY_CLOSED")
            self._failure = gone if crash is None else Fault(f"the gateway's {self.name} lane failed: {crash!r}")
        self._pulse.beat()

    async def run(self) -> None:
        """Never raises but when cancelled."""
        while not self._buffer.handed_over and not self._buffer.is_done:
            await self._pulse.next()
        attempt = 0
        while not self._buffer.is_done:
            before = self._buffer.acknowledged
            ending = await self._connect()
            attempt = 0 if self._buffer.acknowledged > before else attempt
            if self._buffer.is_done:
                return
            if ending.is_final:
                _log.error("gateway stopped", **self._about(ending))
                self._failure = ending.error
                self._pulse.beat()
                return
            _log.warning("gateway lost its stream", **self._about(ending))
            wait_s = wait_before(attempt, ending, self._settings.backoff_min_s, self._settings.backoff_max_s, self._rng)
            attempt += 1
            await self._clock.sleep(wait_s)

    @property
    def is_streaming(self) -> bool:
        """Whether a stream is open now."""
        return self._stream is not None

    @property
    def missing(self) -> str:
        """What is not acknowledged, for a message; "" when nothing is."""
        if not self._buffer.buffered:
            return ""
        return f"{self._buffer.buffered} readings of the {self.name} lane ({len(self._buffer.in_flight)} batches on their way)"

    @property
    def statistics(self) -> LaneStatistics:
        """The lane as it is now."""
        buffer, stream = self._buffer, self._stream
        return LaneStatistics(
            handed_over=buffer.handed_over,
            transmitted=buffer.transmitted,
            acknowledged=buffer.acknowledged,
            refused=dict(self._refused),
            dropped=buffer.dropped,
            buffered=buffer.buffered,
            in_flight_batches=len(buffer.in_flight),
            streams=self._streams,
            window_batches=stream.window_batches if stream else 0,
            window_bytes=stream.window_bytes if stream else 0,
            position=self._position,
            round_trip_s=self._round_trip_s,
            clock_drift_s=self._clock_drift_s,
            last_error=self._last_error,
        )

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _connect(self) -> Ending:
        """One stream on a connection of its own, so that a half-open one is never used again."""
        settings, target = self._settings, target_for(self._settings.target, "ingest")
        if settings.channel_credentials is None:
            channel = grpc.aio.insecure_channel(target, _CHANNEL_OPTIONS)
        else:
            channel = grpc.aio.secure_channel(target, settings.channel_credentials, _CHANNEL_OPTIONS)
        async with channel:
            call: Any = channel.stream_stream(STREAM_BATCHES)()
            stream = GatewayStream(call, settings, self._buffer, self._pulse, self._take_ack, self._max_batch_readings)
            try:
                opened = await stream.open(open_frame(settings.gateway_id, settings.region, self._backfill))
                if isinstance(opened, Ending):
                    return self._judge(opened)
                self._opened(opened)
                self._stream = stream
                return self._judge(await stream.converse())
            finally:
                self._stream = None
                self._buffer.disconnected()
                await stream.close()

    def _opened(self, opened: Opened) -> None:
        self._streams += 1
        self._clock_drift_s = (self._clock.now_us() - opened.server_time_us) / 1e6
        if abs(self._clock_drift_s) > CLOCK_FAULT_S:
            _log.warning("gateway's clock is wrong", gateway_id=self._settings.gateway_id, drift_s=round(self._clock_drift_s, 3))

    def _judge(self, ending: Ending) -> Ending:
        """Notes why a stream ended; a frame that was too large makes the batches smaller, as long as that is possible."""
        if not ending.is_orderly:
            self._last_error = f"{ending.error.reason}: {ending.error.message}"
        sizes = [launched.batch.count for launched in self._buffer.in_flight]
        if not ending.is_too_large or not sizes:
            return ending
        if max(sizes) == 1:
            return Ending(ending.error, is_final=True)
        self._max_batch_readings = max(sizes) // 2
        return Ending(ending.error, retry_after_s=0.0)

    def _take_ack(self, ack: Acknowledged, done: list[Launched], refused: dict[int, int]) -> None:
        if done:
            self._round_trip_s = asyncio.get_running_loop().time() - done[-1].at_s
        for reason, count in refused.items():
            self._refused[reason] = self._refused.get(reason, 0) + count
        self._position = ack.position or self._position
        if self._on_ack and done:
            readings = sum(launched.batch.count for launched in done)
            self._on_ack(Acknowledgement(self._backfill, readings, refused, ack.position))

    def _about(self, ending: Ending) -> dict[str, object]:
        return {
            "gateway_id": self._settings.gateway_id,
            "lane": self.name,
            "reason": ending.error.reason,
            "problem": ending.error.message,
            "buffered": self._buffer.buffered,
        }


def not_acknowledged(gateway_id: str, lanes: list[GatewayLane], within_s: float) -> Unavailable:
    """What a flush says when its time is over."""
    missing = "; ".join(lane.missing for lane in lanes if lane.missing)
    why = "; ".join(f"{lane.name} stream broke: {error}" for lane in lanes if (error := lane.statistics.last_error))
    problem = f"gateway {gateway_id}: not acknowledged within {within_s:g} s: {missing}{'; ' if why else ''}{why}"
    return Unavailable(problem, reason="NOT_ACKNOWLEDGED")
