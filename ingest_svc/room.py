"""How many batches are in memory, decoded, while the Log is slow?"""

import asyncio
from types import TracebackType

from mesh.errors import Unavailable


class Room:
    """`async with room`: one of `places`, waited for in the order of asking. Raises Unavailable (LOG_UNAVAILABLE) where none
    comes free within `within_s`. A batch is several times its bytes on the wire once it is decoded, judged and encoded, and
    those of thousands of streams may wait for the Log at once."""

    def __init__(self, places: int, within_s: float) -> None:
        self._free = asyncio.Semaphore(places)
        self._within_s = within_s

    async def __aenter__(self) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(self._within_s):
                await self._free.acquire()
        except TimeoutError:
            problem = f"the log took no records for {self._within_s:.0f} s: resend on a new stream"
            raise Unavailable(problem, reason="LOG_UNAVAILABLE") from None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._free.release()
