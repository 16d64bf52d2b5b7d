"""The gateway client: hands readings to the mesh over StreamBatches, and knows what of them is durable."""

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

from mesh.clock import SystemClock
from mesh.errors import FailedPrecondition
from mesh.gateway_lane import GatewayLane, not_acknowledged
from mesh.gateway_settings import Acknowledgement, GatewaySettings, GatewayStatistics, LaneStatistics
from mesh.ports import Clock
from water.readings import Readings

__all__ = ["Acknowledgement", "Gateway", "GatewaySettings", "GatewayStatistics", "LaneStatistics"]


class Gateway:
    """One gateway with its live lane and, when used, a backfill lane beside it, each a stream on a connection of its own.

    An async context manager: inside it the gateway stays connected, resends on a new stream what was not acknowledged on
    the old one, and obeys the server's windows. Leaving it waits up to `close_timeout_s` for the last acknowledgement and
    raises Unavailable when it does not come; leaving it by an exception stops at once. An error that would only come again (a
    refused region or gateway id, another process with the same id, a missing permission) stops its lane for good:
    `send` and `flush` raise it. `on_ack` is called with each acknowledgement, and must be quick.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        on_ack: Callable[[Acknowledgement], None] | None = None,
    ) -> None:
        clock, rng = clock or SystemClock(), rng or random.Random()
        self._settings = settings
        self._live = GatewayLane(settings, False, clock, rng, on_ack)
        self._backfill = GatewayLane(settings, True, clock, rng, on_ack)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def statistics(self) -> GatewayStatistics:
        """A snapshot; still there after the gateway was left."""
        return GatewayStatistics(self._live.statistics, self._backfill.statistics)

    async def send(self, readings: Readings) -> None:
        """Hands over live readings; returns when they are buffered, not when they are durable (`flush`). Waits for room, or drops
        the oldest, as `when_full` says. Their order is kept; cancelled while waiting, a part of them may be handed over."""
        await self._hand_over(self._live, readings)

    async def send_backlog(self, readings: Readings) -> None:
        """The same for stored-up readings, on the backfill stream, which never delays the live one."""
        await self._hand_over(self._backfill, readings)

    async def flush(self, timeout_s: float) -> None:
        """Returns when everything handed over before is durable or named as refused (or was dropped). Raises Unavailable
        (NOT_ACKNOWLEDGED) saying what is missing, or the error that stopped a lane which still holds readings."""
        lanes = [self._live, self._backfill]
        try:
            async with asyncio.timeout(timeout_s):
                for lane in lanes:
                    await lane.flush()
        except TimeoutError:
            raise not_acknowledged(self._settings.gateway_id, lanes, timeout_s) from None

    async def __aenter__(self) -> Self:
        if self._tasks:
            raise FailedPrecondition("a gateway is entered once: make another", reason="GATEWAY_ENTERED")
        for lane in (self._live, self._backfill):
            task = asyncio.create_task(lane.run(), name=f"gateway {self._settings.gateway_id} {lane.name}")
            task.add_done_callback(lane.stopped)
            self._tasks.append(task)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                await self._drain()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hand_over(self, lane: GatewayLane, readings: Readings) -> None:
        if not self._tasks:
            raise FailedPrecondition("enter the gateway first: async with Gateway(..) as gateway", reason="GATEWAY_CLOSED")
        await lane.hand_over(readings)

    async def _drain(self) -> None:
        """Everything acknowledged, then open streams half-closed and their ends read."""
        lanes, within_s = [self._live, self._backfill], self._settings.close_timeout_s
        try:
            async with asyncio.timeout(within_s):
                for lane in lanes:
                    await lane.flush()
                    lane.finish()
                await asyncio.gather(*(task for lane, task in zip(lanes, self._tasks, strict=True) if lane.is_streaming))
        except TimeoutError:
            if any(lane.missing for lane in lanes):
                raise not_acknowledged(self._settings.gateway_id, lanes, within_s) from None
