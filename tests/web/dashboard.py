"""What tests do with the page's server: hear its stream, ask it, and post to it as the page does."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx

from mesh.gateway import Gateway

WITHIN_S = 30.0
Sending = Callable[[str], AbstractAsyncContextManager[Gateway]]


def now_us() -> int:
    """Readings are measured now: the board shows what is newer than what it has."""
    return time.time_ns() // 1000


def client(page: str) -> httpx.AsyncClient:
    """Waits at most 30 s for anything."""
    return httpx.AsyncClient(base_url=page, timeout=WITHIN_S, trust_env=False, verify=False)


class Heard:
    """What a browser knows after the frames it has taken in: entries by part and key."""

    KEYS = {"sites": "site_id", "sensors": "sensor_id", "alerts": "alert_id", "sources": "name", "readings": 0}  # noqa: RUF012

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.parts: dict[str, dict[str, Any]] = {part: {} for part in self.KEYS}
        self.about: dict[str, Any] = {}
        self.pipeline: dict[str, Any] = {}
        self.ledger: dict[str, Any] = {}
        self.resets = 0
        self.last_event = ""

    async def until(self, holds: Callable[["Heard"], object]) -> None:
        """Takes frames in until it holds, at most 30 s."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not holds(self):
                    await self.next()
        except TimeoutError:
            raise AssertionError(f"not heard in {WITHIN_S:g} s, but {self.parts}"[:3000]) from None

    async def next(self) -> None:
        """Takes one event in. Raises EOFError when the stream has ended."""
        event = ""
        async for line in self._lines:
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                self.last_event = event
                if not event:
                    self._take(json.loads(line.removeprefix("data: ")))
                return
        raise EOFError

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["reset"]:
            self.resets += 1
            for entries in self.parts.values():
                entries.clear()
        for part, key in self.KEYS.items():
            self.parts[part] |= {entry[key]: entry for entry in frame.get(part, [])}
        for part, key in frame["gone"]:
            del self.parts[part][key]
        for entry in frame.get("about", []):
            self.about |= entry
        self.pipeline = frame.get("pipeline", [self.pipeline])[0]
        self.ledger = frame.get("ledger", [self.ledger])[0]


@asynccontextmanager
async def hearing(page: str) -> AsyncIterator[Heard]:
    """The stream of one browser."""
    async with client(page) as http, http.stream("GET", "/live") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Heard(answer.aiter_lines())


async def post(page: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    """As the page does, unless headers say otherwise; a header given as "" is left out."""
    usual = {"origin": page, "content_type": "application/json"}
    sent = {name.replace("_", "-"): value for name, value in (usual | headers).items() if value}
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    async with client(page) as http:
        return await http.post(path, content=content, headers=sent)
