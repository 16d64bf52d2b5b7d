"""A simulated fleet that streams: each of its gateways is a real gateway client, over real gRPC."""

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mesh.gateway import Gateway, GatewaySettings, GatewayStatistics
from mesh.ports import Clock
from water.readings import Readings
from wq.fleet_sensors import Fleet

_REPORT_EVERY_S = 1.0
_LONGEST_SLEEP_S = 0.5
_CATCH_UP_US = 60_000_000
_BUFFER_READINGS = 500_000
_BATCH_AGE_S = 0.05  # what is measured is seen on the page within a second


@dataclass(frozen=True, slots=True)
class Sent:
    """What one or more gateways have done with their readings; `last_error` is "" when no stream ever broke."""

    handed_over: int
    transmitted: int
    acknowledged: int
    accepted: int
    refused: dict[int, int]
    backfilled: int
    buffered: int
    reconnects: int
    round_trip_s: float
    last_error: str


@dataclass(frozen=True, slots=True)
class FleetStatistics:
    """Up to now: (gateway_id, region, what it sent), and all together."""

    gateways: tuple[tuple[str, str, Sent], ...]
    all: Sent


class FleetRun:
    """One run of a fleet against a mesh. `history_us`: how much stored-up time each gateway sends in the backfill lane beside."""

    def __init__(self, fleet: Fleet, target: str, clock: Clock, rng: random.Random, history_us: int = 0) -> None:
        self._fleet = fleet
        self._target = target
        self._clock = clock
        self._rng = rng
        self._history_us = history_us
        self._begin_us = clock.now_us()
        self._end_us: float = float("inf")
        self._stop = asyncio.Event()
        self._clients: list[list[Gateway]] = [[] for _ in fleet.gateway_ids]

    def stop(self) -> None:
        """No new readings: `run` returns when the last ones are acknowledged."""
        self._stop.set()

    async def run(
        self, duration_s: float | None = None, report: Callable[[FleetStatistics], None] | None = None
    ) -> FleetStatistics:
        """Streams at the present time until `stop`, for `duration_s`, or until cancelled (then at once), and waits for the last
        acknowledgement. `report` is called once a second. Raises an ExceptionGroup of what stopped gateways for good, and
        Unavailable where something stays unacknowledged."""
        if duration_s is not None:
            self._end_us = self._begin_us + duration_s * 1e6
        async with asyncio.TaskGroup() as reporting:
            reporter = reporting.create_task(self._report(report))
            async with asyncio.TaskGroup() as tasks:
                for number in range(len(self._clients)):
                    tasks.create_task(self._run_gateway(number))
            reporter.cancel()
        return self.statistics

    @property
    def statistics(self) -> FleetStatistics:
        """A snapshot."""
        of_each = [[client.statistics for client in clients] for clients in self._clients]
        rows = zip(self._fleet.gateway_ids, self._fleet.regions, of_each, strict=True)
        gateways = tuple((gateway_id, region, _total(of_one)) for gateway_id, region, of_one in rows)
        return FleetStatistics(gateways, _total(one for of_one in of_each for one in of_one))

    async def _run_gateway(self, number: int) -> None:
        away = self._fleet.absence(number)
        if away is None:
            await self._stream(number, self._end_us, self._begin_us - self._history_us, self._begin_us)
            return
        from_us, until_us = away
        await self._stream(number, min(from_us, self._end_us), 0, 0)
        await self._until(min(until_us, self._end_us))
        if until_us < self._end_us and not self._stop.is_set():
            await self._stream(number, self._end_us, from_us, until_us)

    async def _stream(self, number: int, until_us: float, stored_from_us: int, stored_until_us: int) -> None:
        """Live readings from now until then, and beside them what was stored in that span."""
        settings = GatewaySettings(
            self._target,
            self._fleet.gateway_ids[number],
            self._fleet.regions[number],
            max_batch_age_s=_BATCH_AGE_S,
            buffer_readings=_BUFFER_READINGS,
        )
        async with Gateway(settings, self._clock, self._rng) as gateway:
            self._clients[number].append(gateway)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_stored(gateway, self._fleet.between(number, stored_from_us, stored_until_us)))
                await self._send_live(gateway, number, until_us)

    async def _send_stored(self, gateway: Gateway, stored: Iterable[Readings]) -> None:
        for readings in stored:
            if self._stop.is_set():
                return
            await gateway.send_backlog(readings)
            await asyncio.sleep(0)  # making them takes a while: live readings go in between

    async def _send_live(self, gateway: Gateway, number: int, until_us: float) -> None:
        """One step after the other, each at its time; more than a minute late (the machine slept) they are left out."""
        step_us = self._fleet.step_us
        step = self._clock.now_us() // step_us + 1
        while step * step_us < until_us:
            await self._until(step * step_us)
            if self._stop.is_set():
                return
            await gateway.send(self._fleet.due(number, step))
            step = max(step + 1, (self._clock.now_us() - _CATCH_UP_US) // step_us)

    async def _until(self, at_us: float) -> None:
        """Returns at that time, or soon after `stop`."""
        while (missing_us := at_us - self._clock.now_us()) > 0 and not self._stop.is_set():
            await self._clock.sleep(min(_LONGEST_SLEEP_S, missing_us / 1e6))

    async def _report(self, report: Callable[[FleetStatistics], None] | None) -> None:
        while report is not None:
            await self._clock.sleep(_REPORT_EVERY_S)
            report(self.statistics)


def _total(statistics: Iterable[GatewayStatistics]) -> Sent:
    each = list(statistics)
    refused: dict[int, int] = {}
    for one in each:
        for reason, count in one.refused.items():
            refused[reason] = refused.get(reason, 0) + count
    return Sent(
        handed_over=sum(one.handed_over for one in each),
        transmitted=sum(one.transmitted for one in each),
        acknowledged=sum(one.acknowledged for one in each),
        accepted=sum(one.accepted for one in each),
        refused=refused,
        backfilled=sum(one.backfill.acknowledged for one in each),
        buffered=sum(one.buffered for one in each),
        reconnects=sum(one.reconnects for one in each),
        round_trip_s=max((one.live.round_trip_s or 0.0 for one in each), default=0.0),
        last_error=next((one.last_error for one in each if one.last_error), ""),
    )
