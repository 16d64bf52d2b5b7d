"""What changed on the board: the newest reading of each sensor of the live lane, per region, at most 4 times a second."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np
import structlog

from mesh.codec.log_records import read_screened
from mesh.codec.tasks import write_board
from mesh.errors import InvalidArgument, WaterError
from mesh.ports import Clock, Exchange, Priority, Stored
from water.newest import cut, newest
from water.readings import Readings, concatenate

EVERY_S = 0.25
TOLD_FOR_US = 10_000_000
STALE_AFTER_US = 5_000_000
PUBLISH_S = 5.0
MOST_AT_ONCE = 4
MOST_SENSORS = 100_000
MOST_READINGS = 20_000
MOST_ARRIVED_BYTES = 8 * 2**20
THREAD_FROM_BYTES = 100_000  # about 2,000 readings: more of them at once would make the event loop stand still
_log = structlog.get_logger()
_Waiting = Mapping[str, Readings]


class BoardUpdates:
    """Publishes board tasks, medium, of at most 20,000 readings each. Lossy by design: a live picture, not a record.

    Not shown: a record that is older than 5 s when it is read; beyond 8 MiB that came since the last round the oldest records;
    beyond 100,000 sensors waiting over all regions those measured first; and what the Exchange did not take within 5 s, which
    `problem` tells until something is taken again, and for ten seconds at most. Records are decoded once per round, newest per
    sensor over all of them.
    """

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock
        self._arrived: deque[bytes] = deque()
        self._arrived_bytes = 0
        self._waiting: _Waiting = {}
        self._changed = asyncio.Event()
        self._dropped_count = 0
        self._dropped_us = 0
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why updates were dropped lately. Where nothing comes any more, nothing shows that the Exchange is back."""
        return self._problem if self._clock.now_us() - self._dropped_us < TOLD_FOR_US else ""

    def show(self, stored: Stored) -> None:
        """A record of `screened`. Costs next to nothing: it is looked at in the next round."""
        if "gateway" not in stored.record.headers or self._clock.now_us() - stored.appended_at_us > STALE_AFTER_US:
            return
        self._arrived.append(stored.record.value)
        self._arrived_bytes += len(stored.record.value)
        while self._arrived_bytes > MOST_ARRIVED_BYTES:
            self._arrived_bytes -= len(self._arrived.popleft())
        self._changed.set()

    async def run(self) -> None:
        """A round as soon as something changed, and then at most one in 250 ms, until cancelled."""
        while True:
            await self._changed.wait()
            due_us = self._clock.now_us() + round(EVERY_S * 1e6)
            await self.publish()
            await self._clock.sleep(max(0.0, (due_us - self._clock.now_us()) / 1e6))

    async def publish(self) -> None:
        """One round: at most one task for each region that changed. What does not fit waits for the next."""
        self._changed.clear()
        arrived, is_big = tuple(self._arrived), self._arrived_bytes >= THREAD_FROM_BYTES
        self._arrived.clear()
        self._arrived_bytes = 0
        if is_big or any(len(readings) > MOST_READINGS for readings in self._waiting.values()):
            bodies, self._waiting = await asyncio.to_thread(_round, self._waiting, arrived)
        else:
            bodies, self._waiting = _round(self._waiting, arrived)
        if self._waiting:
            self._changed.set()
        left = iter(bodies)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(MOST_AT_ONCE, len(bodies))):
                tasks.create_task(self._offer(left))

    async def _offer(self, left: Iterable[bytes]) -> None:
        for body in left:
            try:
                async with asyncio.timeout(PUBLISH_S):
                    await self._exchange.publish(Priority.MEDIUM, body)
            except (WaterError, TimeoutError) as error:  # lossy: whatever it is, conditions must go on
                self._dropped_count += 1
                why = str(error) or f"no answer within {PUBLISH_S:g} s"
                self._dropped_us = self._clock.now_us()
                self._problem = f"{self._dropped_count} board updates dropped: {why}"
            else:
                self._dropped_count, self._problem = 0, ""


def _round(waiting: _Waiting, arrived: Iterable[bytes]) -> tuple[list[bytes], _Waiting]:
    """The tasks of a round, and what waits for the next one."""
    parts = {region: [readings] for region, readings in waiting.items()}
    for value in arrived:
        try:
            screened = read_screened(value)
        except InvalidArgument as error:
            _log.warning("record not shown", problem=error.message)
            continue
        if len(screened.readings):
            parts.setdefault(screened.region, []).append(screened.readings)
    bodies, left = [], {}
    for region, readings in _bounded({region: newest(concatenate(part)) for region, part in parts.items()}).items():
        shown, rest = cut(readings, MOST_READINGS)
        bodies.append(write_board(region, shown))
        if len(rest):
            left[region] = rest
    return bodies, left


def _bounded(changed: _Waiting) -> _Waiting:
    """At most 100,000 sensors, those that were measured last."""
    count = sum(map(len, changed.values()))
    if count <= MOST_SENSORS:
        return changed
    times = np.concatenate([readings.measured_at_us for readings in changed.values()])
    is_kept = np.zeros(count, np.bool_)
    is_kept[np.argsort(times, kind="stable")[-MOST_SENSORS:]] = True
    ends = np.cumsum([len(readings) for readings in changed.values()])[:-1]
    kept = zip(changed.items(), np.split(is_kept, ends), strict=True)
    return {region: readings.take(mask) for (region, readings), mask in kept if mask.any()}
