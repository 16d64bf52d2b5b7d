"""The open streams of one server: the newest of each gateway and lane wins, and a drain ends all of them in order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from ingest_svc.stream import Stream
from mesh.codec.ingest_frames import Opening
from mesh.errors import Conflict, Unavailable
from mesh.ports import Clock

RETRY_AFTER_S = 1.0


class OpenStreams:
    """Bounded: beyond `limit` streams a new one is told to try again."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._newest: dict[tuple[str, bool], Stream] = {}
        self._farewell: dict[Stream, Callable[[float], Awaitable[None]]] = {}
        self._is_closing = False

    def __len__(self) -> int:
        return len(self._farewell)

    def admit(self) -> None:
        """Raises Unavailable where a new stream or batch would not be served."""
        if self._is_closing:
            raise _shutting_down()
        if len(self._farewell) >= self._limit:
            raise Unavailable(f"{self._limit} streams are open, the most this server serves", reason="TOO_MANY_STREAMS")

    @contextmanager
    def newest(self, opening: Opening, stream: Stream, farewell: Callable[[float], Awaitable[None]]) -> Iterator[None]:
        """Makes this the gateway's stream for its lane; an older one ends with ABORTED (NEWER_STREAM)."""
        key = (opening.gateway_id, opening.backfill)
        older = self._newest.get(key)
        if older:
            lane = "backfill" if opening.backfill else "live"
            problem = f"gateway {opening.gateway_id} opened another {lane} stream on this server: use one gateway_id per gateway"
            older.end(Conflict(problem, reason="NEWER_STREAM"))
        self._newest[key] = stream
        self._farewell[stream] = farewell
        try:
            yield
        finally:
            del self._farewell[stream]
            if self._newest.get(key) is stream:
                del self._newest[key]

    async def drain(self, grace_s: float, clock: Clock) -> None:
        """Admits nothing more, says `closing` on every stream, waits until they have finished or the grace is over, and ends
        the rest with UNAVAILABLE (SHUTTING_DOWN)."""
        self._is_closing = True
        deadline_us = clock.now_us() + int(grace_s * 1e6)
        with suppress(TimeoutError):  # a gateway that does not read keeps nobody waiting
            async with asyncio.timeout(grace_s):
                await asyncio.gather(*(say(grace_s) for say in self._farewell.values()), return_exceptions=True)
        while self._farewell and clock.now_us() < deadline_us:
            await clock.sleep(0.02)
        for stream in self._farewell:
            stream.end(_shutting_down())


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down", reason="SHUTTING_DOWN", retry_after_s=RETRY_AFTER_S)
