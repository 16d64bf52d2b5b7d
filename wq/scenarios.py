"""What may happen to a simulated fleet: to its water, to its sensors, to its gateways."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from wq.fleet_water import (
    CONDUCTIVITY,
    DISINFECTANT,
    MUNICIPAL,
    OXYGEN,
    PH,
    REDOX,
    TURBIDITY,
    Floats,
    Spots,
    noise,
)

_DAY_US = 86_400_000_000
_HURT_SENSORS = 3


class Scenario(StrEnum):
    """`contamination`: a pulse passes some sensors of one site, one after the other. `drift`: the pH probe of one sensor wanders
    off. `fouling`: one sensor grows over. `outage`: the first gateway is away for a while, and sends what it stored
    afterwards. `backlog`: every gateway sends hours of stored readings beside its live ones."""

    NORMAL = "normal"
    CONTAMINATION = "contamination"
    DRIFT = "drift"
    FOULING = "fouling"
    OUTAGE = "outage"
    BACKLOG = "backlog"


@dataclass(frozen=True, slots=True)
class Course:
    """A scenario in time: what happens is spread over `duration_us` from `begin_us` on, at one site (from 0) and its sensors."""

    scenario: Scenario
    begin_us: int
    duration_us: int
    site: int = 0

    def change(self, spots: Spots, values: Floats, seed: int) -> None:
        """Changes the values, float64 of shape (8, n), in place. A single sensor concerned is the site's first."""
        progress = (spots.at_us - self.begin_us) / self.duration_us
        if self.scenario is Scenario.CONTAMINATION:
            _contaminate(spots, values, progress, self._is_chosen(spots, _HURT_SENSORS))
        elif self.scenario is Scenario.DRIFT:
            values[PH] += 1.5 * np.clip(progress, 0, 1) * self._is_chosen(spots, 1)
        elif self.scenario is Scenario.FOULING:
            _foul(spots, values, np.clip(progress, 0, 1) * self._is_chosen(spots, 1), seed)

    def absence(self, gateway: int) -> tuple[int, int] | None:
        """From when to when a gateway is away, microseconds since 1970."""
        if self.scenario is not Scenario.OUTAGE or gateway != 0:
            return None
        return self.begin_us + self.duration_us // 4, self.begin_us + self.duration_us * 6 // 10

    def _is_chosen(self, spots: Spots, count: int) -> Floats:
        """1 for the first `count` sensors of the site concerned, else 0."""
        return np.asarray((spots.site == self.site) & (spots.within_site < count), np.float64)


def _contaminate(spots: Spots, values: Floats, progress: Floats, chosen: Floats) -> None:
    since = progress - 0.3 - 0.02 * spots.within_site
    strength = np.clip(since / 0.05, 0, 1) * np.exp(-np.maximum(since - 0.2, 0) / 0.08) * chosen
    values[CONDUCTIVITY] *= 1 + 0.6 * strength
    values[TURBIDITY] += 12 * strength
    values[OXYGEN] *= 1 - 0.35 * strength
    values[PH] -= 0.6 * strength
    is_plant = spots.kind == MUNICIPAL
    values[DISINFECTANT, is_plant] *= (1 - 0.85 * strength)[is_plant]
    values[REDOX, is_plant] -= (280 * strength)[is_plant]


def _foul(spots: Spots, values: Floats, growth: Floats, seed: int) -> None:
    """The window clouds and flutters; what grows breathes at night."""
    night = np.maximum(0, -np.sin((spots.at_us % _DAY_US / _DAY_US - 6 / 24) * 2 * np.pi))
    values[TURBIDITY] += growth**2 * 60 + growth * 6 * np.abs(noise(spots, seed, 100))
    values[OXYGEN] = np.maximum(values[OXYGEN] - 3 * growth * night, 0)
