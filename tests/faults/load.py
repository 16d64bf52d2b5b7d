"""The load of a fault run: gateways that send a Course at a bounded rate, and what became known of it to them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from mesh.clock import SystemClock
from mesh.gateway import Acknowledgement, Gateway, GatewaySettings
from tests.faults.course import Course
from tests.faults.truth import BACKFILL, LIVE, Sent
from water.readings import Readings

TICK_S = 0.5
AHEAD_US = 600_000_000
BEHIND_US = 90 * 86_400_000_000
BUFFER_READINGS = 4_000
FLUSH_WITHIN_S = 150.0
_CLOCKS = range(20, 30)


@dataclass(slots=True)
class Load:
    """Gateways at work; `steady` are those that send from the first moment to the last. `longest_silence_s`: the longest time in
    which none of them was acknowledged anything."""

    course: Course
    gateways: dict[str, Gateway]
    steady: tuple[str, ...] = ()
    sent: Sent = field(default_factory=Sent)
    ahead_count: int = 0
    longest_silence_s: float = 0.0
    last_ack_s: float = field(default_factory=monotonic)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def took_ack(self, _: Acknowledgement) -> None:
        """An acknowledgement has come, of whatever gateway."""
        now_s = monotonic()
        self.longest_silence_s = max(self.longest_silence_s, now_s - self.last_ack_s)
        self.last_ack_s = now_s

    @property
    def sent_count(self) -> int:
        """Readings handed over, those of the fast clock included."""
        return self.sent.count + self.ahead_count

    @property
    def positions(self) -> list[str]:
        """Tokens of everything that is acknowledged now."""
        return [position for gateway in self.gateways.values() for position in gateway.statistics.positions]

    @property
    def refused_count(self) -> int:
        """As the gateways were told."""
        return sum(sum(gateway.statistics.refused.values()) for gateway in self.gateways.values())

    @property
    def dropped_count(self) -> int:
        """Readings that a gateway gave up: none, whatever happens."""
        return sum(gateway.statistics.dropped for gateway in self.gateways.values())

    async def hand_over(self, gateway_id: str, lane: bool, readings: Readings) -> None:
        """Notes and sends; waits while the gateway's buffer is full."""
        gateway = self.gateways[gateway_id]
        self.sent.note(gateway_id, lane, readings)
        await (gateway.send_backlog(readings) if lane == BACKFILL else gateway.send(readings))

    async def gets_through(self, within_s: float) -> None:
        """Returns when every gateway had an acknowledgement for something that it had not handed over before."""
        wanted = {name: gateway.statistics.live.handed_over for name, gateway in self._steady()}
        deadline_s = monotonic() + within_s
        while waiting := [name for name, gateway in self._steady() if gateway.statistics.live.acknowledged <= wanted[name]]:
            if monotonic() > deadline_s:
                why = "; ".join(self.gateways[name].statistics.last_error for name in waiting)
                raise AssertionError(f"not acknowledged within {within_s:g} s: {', '.join(waiting)}: {why}")
            await asyncio.sleep(0.05)

    def _steady(self) -> list[tuple[str, Gateway]]:
        return [(name, self.gateways[name]) for name in self.steady]


@asynccontextmanager
async def running_load(course: Course, targets: Sequence[str]) -> AsyncIterator[Load]:
    """They send inside the block. At its end each goes on to its tick's end, and everything is acknowledged, or it fails."""
    load = Load(course, {})
    names = [*(course.gateway_id(gateway) for gateway in range(course.gateways)), *_clock_ids(course)]
    load.steady = tuple(names)
    for number, name in enumerate(names):
        settings = GatewaySettings(
            either_of(targets, number), name, course.region,
            max_batch_readings=200, max_batch_age_s=0.1, buffer_readings=BUFFER_READINGS,
            connect_timeout_s=5, ack_timeout_s=8, close_timeout_s=FLUSH_WITHIN_S, backoff_max_s=2,
        )  # fmt: skip
        load.gateways[name] = Gateway(settings, on_ack=load.took_ack)
    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate(names):
            work = _send(load, number) if number < course.gateways else _send_by_wrong_clock(load, name, number)
            tasks.create_task(_connected(load, name, work), name=name)
        try:
            yield load
        finally:
            load.stopping.set()


def either_of(targets: Sequence[str], first: int) -> str:
    """One gRPC target that leads to any of these addresses, tried from this number on."""
    turned = [targets[(first + number) % len(targets)] for number in range(len(targets))]
    return turned[0] if len(turned) == 1 else f"ipv4:{','.join(turned)}"


def _clock_ids(course: Course) -> tuple[str, str]:
    return f"{course.region}-ahead", f"{course.region}-behind"


async def _connected(load: Load, name: str, work: Awaitable[None]) -> None:
    async with load.gateways[name] as gateway:
        await work
        await gateway.flush(FLUSH_WITHIN_S)


async def _send(load: Load, number: int) -> None:
    name = load.course.gateway_id(number)
    async for tick in _ticks(load):
        await load.hand_over(name, LIVE, load.course.live(number, tick))
        await load.hand_over(name, BACKFILL, load.course.backlog(number, tick))


async def _send_by_wrong_clock(load: Load, name: str, number: int) -> None:
    """What a clock ten minutes fast stamps is refused, what one three months slow stamps is stored."""
    clock = SystemClock()
    async for tick in _ticks(load):
        water = load.course.water(number, tick, _CLOCKS)
        if name.endswith("-behind"):
            await load.hand_over(name, LIVE, Readings(water.sensor_id, water.measured_at_us - BEHIND_US, water.values))
        else:
            at_us = np.full(len(water), clock.now_us() + AHEAD_US, np.int64)
            load.ahead_count += len(water)
            await load.gateways[name].send(Readings(water.sensor_id, at_us, water.values))


async def _ticks(load: Load) -> AsyncIterator[int]:
    """Numbers in the rhythm of TICK_S; an even number of them, since two ticks that were swapped belong together."""
    tick = 0
    due_s = monotonic()
    while not load.stopping.is_set() or tick % 2:
        yield tick
        tick += 1
        due_s = max(due_s + TICK_S, monotonic() - 4 * TICK_S)
        await asyncio.sleep(max(0.0, due_s - monotonic()))
