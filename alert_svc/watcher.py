"""What one watcher has yet to be told of alerts, in bounded memory, however slowly it reads."""

import asyncio
from collections.abc import Iterable

from alert_svc.alert_filter import AlertFilter
from mesh.codec.alerts import Alert
from mesh.errors import Unavailable

MOST_WAITING = 20_000
MOST_SHOWN = 50_000


class Watcher:
    """The newest state of each alert that changed wins. An alert that no longer fits is told once more, so that the watcher sees
    it leave. A watcher that lets more than 20,000 alerts wait is ended; the 50,000 that were shown last are known as shown."""

    def __init__(self, asked: AlertFilter) -> None:
        self.asked = asked
        self._waiting: dict[int, Alert] = {}
        self._shown: dict[int, int] = {}
        self._news = asyncio.Event()
        self._end: Unavailable | None = None

    def show(self, alerts: Iterable[Alert]) -> None:
        """Alerts as they are now, those that changed last behind."""
        for alert in alerts:
            if self.asked.fits(alert) or alert.alert_id in self._shown or alert.alert_id in self._waiting:
                self._waiting.pop(alert.alert_id, None)
                self._waiting[alert.alert_id] = alert
        if len(self._waiting) > MOST_WAITING:
            problem = f"more than {MOST_WAITING:,} changed alerts were not read: watch again"
            self.end(Unavailable(problem, reason="ANSWER_NOT_READ"))
        if self._waiting:
            self._news.set()

    async def news(self) -> list[Alert]:
        """Waits until there is something to tell, then gives all of it. Raises Unavailable once ended."""
        while True:
            await self._news.wait()
            if self._end is not None:
                raise self._end
            self._news.clear()
            waiting, self._waiting = self._waiting, {}
            if news := self.fresh(waiting.values()):
                return news

    def fresh(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Those that the watcher does not know yet as they are, marked as known."""
        return [alert for alert in alerts if self._is_fresh(alert)]

    def end(self, error: Unavailable) -> None:
        """Ends `news`, now and for ever."""
        self._end = self._end or error
        self._waiting = {}
        self._news.set()

    def _is_fresh(self, alert: Alert) -> bool:
        fits, known = self.asked.fits(alert), self._shown.pop(alert.alert_id, None)
        if fits:
            self._shown[alert.alert_id] = max(alert.change, known or 0)
            if len(self._shown) > MOST_SHOWN:
                del self._shown[next(iter(self._shown))]
        return (fits or known is not None) and (known is None or alert.change > known)
