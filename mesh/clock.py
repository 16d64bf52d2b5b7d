"""Which time is it: the machine's clock, and one that tests move by hand."""

import asyncio
import heapq
import time


class SystemClock:
    """The machine's time, UTC."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """Stands still until it is advanced; then everybody who slept until then wakes, the earliest first."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._sleeper_count = 0

    @property
    def sleeping(self) -> int:
        """How many wait for this clock now, so that a test can wait until somebody does before it advances."""
        return sum(not wake.done() for _, _, wake in self._sleepers)

    def now_us(self) -> int:
        return self._now_us

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake = asyncio.get_running_loop().create_future()
        self._sleeper_count += 1
        heapq.heappush(self._sleepers, (self._now_us + round(seconds * 1_000_000), self._sleeper_count, wake))
        await wake

    def advance(self, seconds: float) -> None:
        """Moves the time on. Only from the event loop's thread; the sleepers run when the caller next waits."""
        if seconds < 0:
            raise ValueError(f"time never goes back: {seconds} s")
        self._now_us += round(seconds * 1_000_000)
        while self._sleepers and self._sleepers[0][0] <= self._now_us:
            wake = heapq.heappop(self._sleepers)[2]
            if not wake.done():
                wake.set_result(None)
