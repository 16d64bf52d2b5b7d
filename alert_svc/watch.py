"""What happens to alerts right now: one look at what changed per process and moment, shown to all watchers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc import changes, store
from alert_svc.alert_filter import AlertFilter, check_filter
from alert_svc.changes import Place
from alert_svc.tables import ALERTS
from alert_svc.watcher import Watcher
from mesh.codec.alerts import Alert, State
from mesh.errors import Unavailable
from mesh.shards import transaction

STAGE = "watch_alerts"
MOST_WATCHERS = 100
POLL_S = 0.2
PAGE = 500


class AlertWatch:
    """The look, and its watchers. Changes of this process are shown at once (`wake`), those of others within 200 ms. While the
    database is away nothing is shown, and afterwards what changed meanwhile. Costs nothing while nobody watches."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._watchers: set[Watcher] = set()
        self._place: Place | None = None
        self._beginning = asyncio.Lock()
        self._wake = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Looks until cancelled. Raises Unavailable when the database is away."""
        while True:
            if not self._watchers:
                self._place = None
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S if self._watchers else None):
                    await self._wake.wait()
            self._wake.clear()
            await self._show()

    @property
    def watcher_count(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def wake(self) -> None:
        """Something was committed here."""
        self._wake.set()

    @asynccontextmanager
    async def follow(self, asked: AlertFilter) -> AsyncIterator[Watcher]:
        """A watcher of every change from now on. Raises InvalidArgument for a filter that makes no sense, Unavailable beyond 100
        watchers (TOO_MANY_WATCHERS) and when the database is away."""
        check_filter(asked)
        if len(self._watchers) >= MOST_WATCHERS:
            message = f"{MOST_WATCHERS} watchers are served, the most at once"
            raise Unavailable(message, reason="TOO_MANY_WATCHERS", retry_after_s=5.0)
        watcher = Watcher(asked)
        if self._closed:
            watcher.end(_closing())
        self._watchers.add(watcher)
        try:
            async with self._beginning:
                if self._place is None:
                    self._place = await changes.begin(self._engine)
            self.wake()
            yield watcher
        finally:
            self._watchers.discard(watcher)

    async def open_ones(self, asked: AlertFilter) -> AsyncGenerator[list[Alert], None]:
        """The open alerts that fit, in pages, as they were first raised. What changes meanwhile a watcher that was there before
        is told of."""
        after_id, is_open = 0, ALERTS.c.state != int(State.RESOLVED)
        while True:
            query = select(ALERTS).where(asked.conditions(), is_open, ALERTS.c.alert_id > after_id)
            async with transaction(self._engine) as connection:
                alerts = await store.read_alerts(connection, query.order_by(ALERTS.c.alert_id).limit(PAGE))
            yield alerts
            if len(alerts) < PAGE:
                return
            after_id = alerts[-1].alert_id

    def close(self) -> None:
        """Ends all watchers, and refuses new ones, because the server stops: Unavailable (CLOSING)."""
        self._closed = True
        for watcher in self._watchers:
            watcher.end(_closing())

    async def _show(self) -> None:
        done = False
        while self._place is not None and not done:
            historical = any(State.RESOLVED in watcher.asked.states for watcher in self._watchers)
            found = await changes.look(self._engine, self._place, historical, PAGE)
            self._place, done = found.next, found.done
            for watcher in self._watchers:
                watcher.show(found.alerts)


def _closing() -> Unavailable:
    return Unavailable("the server stops: watch again", reason="CLOSING")
