"""The fleet of `wq up`: which sensors it has, and what happens to it so that there is something to see."""

import random
from collections.abc import Iterator
from enum import StrEnum

import structlog

from mesh.clock import SystemClock
from mesh.errors import WaterError
from mesh.settings import Settings
from wq.fleet import FleetRun
from wq.fleet_catalog import describe_fleet
from wq.fleet_sensors import Fleet, FleetSettings
from wq.scenarios import Course, Scenario

_log = structlog.get_logger()
_SECOND_US = 1_000_000
_RIVER = 2  # of a gateway's sites the third is a river, whose default limits a contamination does not break
CONTAMINATION_US = 200 * _SECOND_US  # the pulse comes after 0.3 of it, and stays for half a minute
SLOW_DRIFT_US = 6 * 3600 * _SECOND_US
DRIFT_US = 3600 * _SECOND_US
OUTAGE_US = 240 * _SECOND_US


class Demo(StrEnum):
    """What happens to the fleet of `wq up`. `tour`: one sensor drifts slowly and, a minute after the start, a contamination
    passes three sensors of one site. `outage`: the first gateway is away from the first minute to the middle of the third."""

    TOUR = "tour"
    CONTAMINATION = "contamination"
    DRIFT = "drift"
    OUTAGE = "outage"
    NONE = "none"


def demo_fleet(settings: Settings, demo: Demo, now_us: int) -> Fleet:
    """The fleet, and what begins now. Raises SetupError for a fleet that cannot be."""
    fleet = FleetSettings(
        gateways=min(settings.fleet_gateways, settings.fleet_sensors),
        sensors=settings.fleet_sensors,
        period_s=settings.fleet_period_s,
        name="fleet",
        first_sensor_id=1_000_000_001,
    )
    return Fleet(fleet, *_courses(fleet, demo, now_us))


async def stream_fleet(target: str, settings: Settings, demo: Demo = Demo.TOUR) -> None:
    """Describes the fleet in the catalog, then streams until cancelled. When the mesh turns it away it logs that and ends."""
    clock = SystemClock()
    fleet = demo_fleet(settings, demo, clock.now_us())
    try:
        await describe_fleet(fleet, target)
    except WaterError as error:
        _log.warning("the simulated fleet is not in the catalog", problem=error.message)
    try:
        await FleetRun(fleet, target, clock, random.Random()).run()
    except* WaterError as group:
        _log.error("the simulated fleet stopped", problem="; ".join(map(str, _leaves(group))))


def _courses(fleet: FleetSettings, demo: Demo, now_us: int) -> Iterator[Course]:
    """A contamination at the first river, a drift at another site: where the fleet is small, at what sites it has."""
    last = (fleet.sensors - 1) // fleet.site_sensors
    hurt, drifting = min(_RIVER * fleet.gateways, last), min(_RIVER * fleet.gateways + 1, last - 1)
    if demo in (Demo.TOUR, Demo.CONTAMINATION):
        yield Course(Scenario.CONTAMINATION, now_us, CONTAMINATION_US, hurt)
    if demo in (Demo.TOUR, Demo.DRIFT) and drifting >= 0:
        yield Course(Scenario.DRIFT, now_us, DRIFT_US if demo is Demo.DRIFT else SLOW_DRIFT_US, drifting)
    if demo is Demo.OUTAGE:
        yield Course(Scenario.OUTAGE, now_us, OUTAGE_US)


def _leaves(group: BaseExceptionGroup[WaterError]) -> Iterator[WaterError]:
    for error in group.exceptions:
        yield from _leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)
