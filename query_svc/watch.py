"""What is new right now: one tail of the screened live lane per process, fanned out to watchers, newest per sensor."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from mesh.codec.log_records import read_screened
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Assigned, Log, Records
from mesh.stages import Progress
from mesh.topics import SCREENED
from query_svc.selection import Selection
from query_svc.watcher import Watcher

MOST_WATCHERS = 100
STAGE = "watch"
_log = structlog.get_logger()


class Watch:
    """The tail, and its watchers. What is screened while the log cannot be read is not shown: a live picture, not a record."""

    def __init__(self, log: Log, progress: Progress) -> None:
        self._log = log
        self._progress = progress
        self._watchers: set[Watcher] = set()
        self._closed = False

    async def run(self) -> None:
        """Reads the live lane from its end on, until cancelled. Raises Unavailable when the Log is away."""
        async with self._log.consume(None, [SCREENED]) as consumer:
            while True:
                match await consumer.next(1.0):
                    case Assigned(partitions):
                        ends = await self._log.ends([SCREENED])
                        for partition in partitions:
                            self._progress.started(partition, ends[partition].next)
                        await consumer.seek({partition: ends[partition].next for partition in partitions})
                    case Records() as delivery:
                        self._show(delivery)

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

    def _show(self, delivery: Records) -> None:
        for stored in delivery.records if self._watchers else ():
            try:
                screened = read_screened(stored.record.value)
            except InvalidArgument as error:
                _log.warning("record not shown", problem=error.message, offset=stored.offset, **delivery.partition._asdict())
                continue
            for watcher in self._watchers:
                watcher.show(screened.region, screened.readings)
        self._progress.covered(delivery.partition, delivery.records[-1].offset + 1, len(delivery.records))
