"""How fast may rows be copied, so that queries and recorders beside them hardly notice?"""

from mesh.ports import Clock

BURST_S = 0.05
MOST_PAUSE_S = 5.0


class Throttle:
    """Lets `bytes_per_s` through on average, at most a twentieth of a second's worth at once; 0: no limit."""

    def __init__(self, bytes_per_s: float, clock: Clock) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._free_us = 0

    async def spend(self, count: int) -> None:
        """Returns when so many bytes more may be sent."""
        if self._bytes_per_s <= 0:
            return
        now_us = self._clock.now_us()
        self._free_us = max(self._free_us, now_us - round(BURST_S * 1e6)) + round(count / self._bytes_per_s * 1e6)
        if self._free_us > now_us:
            await self._clock.sleep((self._free_us - now_us) / 1e6)
