"""Which sensors a simulated fleet has, and what they read when: the same for the same settings, at every start."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mesh.errors import SetupError
from water.readings import Readings
from wq.fleet_water import MUNICIPAL, Spots, round_to_resolution, values_at
from wq.scenarios import Course

REGIONS = ("north", "river", "coast")
_SITE_SENSORS = 5
_KINDS = 3
_HISTORY_READINGS = 10_000


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Sites have up to 5 sensors each and belong to one gateway, which is in one of the regions. A sensor reads once every
    `period_s`; a gateway's sensors are spread over it in steps of about a second. Sensor ids go up from `first_sensor_id`,
    gateways are called `name`-1, `name`-2, ... Raises SetupError for a fleet that cannot be."""

    gateways: int = 3
    sensors: int = 200
    period_s: float = 1.0
    seed: int = 1
    regions: tuple[str, ...] = REGIONS
    name: str = "simulated"
    first_sensor_id: int = 2_000_000_001

    def __post_init__(self) -> None:
        if not 1 <= self.gateways <= 1000:
            raise SetupError(f"gateways is {self.gateways}, must be 1 to 1000")
        if not self.gateways <= self.sensors <= 1_000_000:
            raise SetupError(
                f"sensors is {self.sensors}, must be at least one for each gateway ({self.gateways}), at most 1000000"
            )
        if not 0.001 <= self.period_s <= 86_400:
            raise SetupError(f"period_s is {self.period_s}, must be 0.001 to 86400 (a day)")
        if not self.regions or self.first_sensor_id < 1:
            problem = f"regions is {self.regions}, must name one at least; first_sensor_id is {self.first_sensor_id}"
            raise SetupError(f"{problem}, must be positive")

    @property
    def site_sensors(self) -> int:
        """Sensors of each site; the last may have fewer."""
        return min(_SITE_SENSORS, self.sensors // self.gateways)


class Place(NamedTuple):
    """Where a sensor is: the number of its site (from 0), what kind of water that is (fleet_water.MUNICIPAL ...), its region."""

    sensor_id: int
    site: int
    kind: int
    region: str


@dataclass(frozen=True, slots=True)
class _Sensors:
    """One gateway's, in the order of their steps."""

    sensor_id: NDArray[np.int64]
    site: NDArray[np.int64]
    within_site: NDArray[np.int64]
    kind: NDArray[np.int64]
    step: NDArray[np.int64]


class Fleet:
    """Reads without a clock of its own: ask for a step, or for a span. `courses` are what happens meanwhile."""

    def __init__(self, settings: FleetSettings, *courses: Course) -> None:
        self.settings = settings
        self._courses = courses
        self.gateway_ids = tuple(f"{settings.name}-{number + 1}" for number in range(settings.gateways))
        self.regions = tuple(settings.regions[number % len(settings.regions)] for number in range(settings.gateways))
        self._steps = max(1, round(settings.period_s))
        self.step_us = round(settings.period_s * 1e6 / self._steps)
        self._sensors = [self._of_gateway(number) for number in range(settings.gateways)]

    def due(self, gateway: int, step: int) -> Readings:
        """What a gateway (from 0) reads at the time `step` * `step_us`."""
        sensors = self._sensors[gateway]
        first, end = np.searchsorted(sensors.step, [step % self._steps, step % self._steps + 1])
        rows = np.arange(first, end)
        return self._read(sensors, rows, np.full(len(rows), step * self.step_us))

    def between(self, gateway: int, start_us: int, end_us: int) -> Iterator[Readings]:
        """The same for all steps from `start_us` to before `end_us`, in order of time, some 10,000 readings at once."""
        sensors = self._sensors[gateway]
        period_us = self.step_us * self._steps
        stride = max(1, _HISTORY_READINGS // len(sensors.sensor_id))
        for first in range(start_us // period_us, -(-end_us // period_us), stride):
            periods = np.arange(first, first + stride)
            at_us = (periods[:, None] * period_us + sensors.step[None, :] * self.step_us).ravel()
            wanted = np.flatnonzero((at_us >= start_us) & (at_us < end_us))
            if len(wanted):
                yield self._read(sensors, wanted % len(sensors.sensor_id), at_us[wanted])

    def absence(self, gateway: int) -> tuple[int, int] | None:
        """From when to when a gateway is away, microseconds since 1970."""
        return next((away for course in self._courses if (away := course.absence(gateway))), None)

    def places(self) -> Iterator[Place]:
        """Every sensor, by its id."""
        of_each = [np.array([s.sensor_id, s.site, s.kind]).T for s in self._sensors]
        for sensor_id, site, kind in sorted(np.concatenate(of_each).tolist()):
            yield Place(sensor_id, site, kind, self.regions[site % self.settings.gateways])

    def _of_gateway(self, gateway: int) -> _Sensors:
        number = np.arange(self.settings.sensors)
        site, within_site = np.divmod(number, self.settings.site_sensors)
        mine = np.flatnonzero(site % self.settings.gateways == gateway)
        step = np.arange(len(mine)) * self._steps // len(mine)
        kind = (site[mine] // self.settings.gateways + MUNICIPAL) % _KINDS  # a gateway's first site is a plant
        return _Sensors(self.settings.first_sensor_id + number[mine], site[mine], within_site[mine], kind, step)

    def _read(self, sensors: _Sensors, rows: NDArray[np.intp], at_us: NDArray[np.int64]) -> Readings:
        spots = Spots(sensors.sensor_id[rows], sensors.site[rows], sensors.within_site[rows], sensors.kind[rows], at_us)
        values = values_at(spots, self.settings.seed)
        for course in self._courses:
            course.change(spots, values, self.settings.seed)
        return Readings(spots.sensor_id, at_us, round_to_resolution(values))
