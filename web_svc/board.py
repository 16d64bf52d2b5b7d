"""What is the newest of everything that the page shows, and what of it has changed since a browser last took it?"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from mesh.ports import Clock

MOST_GONE = 2_000


class Part(StrEnum):
    """What an entry is about: the name of its list in a frame."""

    ABOUT = "about"
    SOURCES = "sources"
    SITES = "sites"
    SENSORS = "sensors"
    READINGS = "readings"
    ALERTS = "alerts"
    PIPELINE = "pipeline"
    LEDGER = "ledger"


_Key = tuple[Part, str]


@dataclass(frozen=True, slots=True)
class Frame:
    """What changed, as one JSON object, and the revision that a browser has with it."""

    content: str
    revision: int


class Board:
    """Entries by part and key, each JSON with the revision of its last change. A browser is a revision and nothing else: a slow
    one misses what has changed again meanwhile (newest wins) and costs no memory. Whoever puts bounds how many keys a part has;
    of keys that are gone the last 2,000 are remembered, and a browser that is further behind begins anew."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._revision = 0
        self._entries: dict[_Key, tuple[int, str]] = {}  # in the order of their revisions, as is the next one
        self._gone: dict[_Key, int] = {}
        self._forgotten = 0
        self._made: tuple[int, int, Frame] | None = None
        self._browsers = 0
        self._changed = asyncio.Event()
        self._audience = asyncio.Event()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self.closed = False

    @property
    def browsers(self) -> int:
        """How many follow it now."""
        return self._browsers

    def put(self, part: Part, entries: Mapping[str, str]) -> None:
        """New contents, each one JSON value. What is the same as before changes nothing."""
        changed = False
        for key, content in entries.items():
            place = (part, key)
            if place in self._entries and self._entries[place][1] == content:
                continue
            self._entries.pop(place, None)
            self._gone.pop(place, None)
            self._revision += 1
            self._entries[place] = (self._revision, content)
            changed = True
        if changed:
            self._wake()

    def remove(self, part: Part, keys: Iterable[str]) -> None:
        """These are gone; nothing for what was not there."""
        for place in [(part, key) for key in keys if (part, key) in self._entries]:
            del self._entries[place]
            self._revision += 1
            self._gone[place] = self._revision
            if len(self._gone) > MOST_GONE:
                self._forgotten = self._gone.pop(next(iter(self._gone)))
            self._wake()

    def keys(self, part: Part) -> list[str]:
        """What there is of a part now."""
        return [key for one, key in self._entries if one is part]

    def since(self, revision: int) -> Frame:
        """What changed after the revision. From 0, and from a revision since which too much is forgotten, everything: then the
        frame says `reset`. Browsers that ask for the same share one frame."""
        start = 0 if revision < self._forgotten else revision
        if self._made and self._made[:2] == (start, self._revision):
            return self._made[2]
        changed = takewhile(lambda entry: entry[1][0] > start, reversed(self._entries.items()))
        changes: list[tuple[int, _Key, str | None]] = [(at, place, content) for place, (at, content) in changed]
        gone = takewhile(lambda entry: entry[1] > start, reversed(self._gone.items())) if start else ()
        changes += [(at, place, None) for place, at in gone]
        changes.sort(key=lambda change: change[0])
        frame = Frame(_write(changes, self._clock.now_us(), reset=not start), self._revision)
        if changes:
            self._made = (start, self._revision, frame)
        return frame

    async def changed(self, revision: int) -> None:
        """Waits until something is newer than the revision, or the board is closed."""
        while self._revision <= revision and not self.closed:
            self._changed.clear()
            await self._changed.wait()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Counts a browser while the block runs."""
        self._browsers += 1
        self._nobody.clear()
        self._audience.set()
        try:
            yield
        finally:
            self._browsers -= 1
            if not self._browsers:
                self._audience.clear()
                self._nobody.set()

    async def wait_for_browser(self) -> None:
        """Waits until somebody follows it."""
        await self._audience.wait()

    async def wait_for_nobody(self, for_s: float) -> None:
        """Waits until nobody has followed it for so long."""
        while True:
            await self._nobody.wait()
            try:
                async with asyncio.timeout(for_s):
                    await self._audience.wait()
            except TimeoutError:
                return

    def close(self) -> None:
        """The server stops: wakes everybody who waits for a change."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()


def _write(changes: list[tuple[int, _Key, str | None]], now_us: int, reset: bool) -> str:
    lists: dict[Part, list[str]] = {}
    gone: list[str] = []
    for _, (part, key), content in changes:
        if content is None:
            gone.append(f'["{part}","{key}"]')
        else:
            lists.setdefault(part, []).append(content)
    members = [f'"{part}":[{",".join(contents)}]' for part, contents in lists.items()]
    members.append(f'"gone":[{",".join(gone)}]')
    return f'{{"now_us":{now_us},"reset":{"true" if reset else "false"},{",".join(members)}}}'
