"""Who watches what is new: this process's watchers, each shown what the board brings, newest per sensor."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.errors import Unavailable
from query_svc.selection import Selection
from query_svc.watcher import Watcher
from water.readings import Readings

MOST_WATCHERS = 100


class Watch:
    """The watchers. What changed comes from `board`, at most 4 times a second for each region, whatever interval a watcher asks
    for; what was screened while board or Exchange was away is not shown: a live picture, not a record."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._closed = False

    @property
    def is_watched(self) -> bool:
        """Whether there is anybody to show something to."""
        return bool(self._watchers)

    def show(self, region: str, readings: Readings) -> None:
        """Flagged readings of one region, to every watcher. Cheap."""
        for watcher in self._watchers:
            watcher.show(region, readings)

    @asynccontextmanager
    async def follow(self, selection: Selection) -> AsyncIterator[Watcher]:
        """A watcher that is shown every reading of the selection from now on. Raises Unavailable beyond 100 watchers."""
        if len(self._watchers) >= MOST_WATCHERS:
            message = f"{MOST_WATCHERS} watchers are served, the most at once"
            raise Unavailable(message, reason="TOO_MANY_WATCHERS", retry_after_s=5.0)
        watcher = Watcher(selection)
        if self._closed:
            watcher.close()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """Ends all watchers, and refuses new ones, because the server stops: Unavailable (CLOSING)."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()
