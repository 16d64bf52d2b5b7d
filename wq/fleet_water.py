"""What simulated water is like: values of many sensors at many times, a pure function of seed, sensor and time.

Shapes of days and rain are made up to look alike; nothing here is a model to forecast with. Columns of n (sensor, time) pairs, no
loop over readings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from water.parameter import BY_COLUMN, PARAMETERS, Parameter

NATURAL, MUNICIPAL, INDUSTRIAL = 0, 1, 2
HOUR_US = 3_600_000_000
_DAY_US = 24 * HOUR_US
_YEAR_US = round(365.2425 * _DAY_US)
_RAIN_SLOT_US = 12 * HOUR_US
_RAIN_DECAY_US = 1.5 * HOUR_US
_WANDER_US = 2 * HOUR_US
PH, TURBIDITY, TEMPERATURE, OXYGEN, CONDUCTIVITY, DISINFECTANT, REDOX, FLOW = (BY_COLUMN[p.column].number - 1 for p in PARAMETERS)

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Which = int | NDArray[np.uint64]
_LOW_16 = np.uint64(0xFFFF)

# By kind: natural, municipal, industrial.
_MEAN_C, _YEAR_C, _DAY_C = np.array([12.0, 11.0, 22.0]), np.array([8.0, 3.0, 2.0]), np.array([1.5, 0.2, 0.8])
_MEAN_PH, _DAY_PH = np.array([7.9, 7.5, 7.2]), np.array([0.25, 0.02, 0.1])
_SATURATION, _DAY_SATURATION = np.array([0.95, 0.85, 0.6]), np.array([0.08, 0.01, 0.04])
_MEAN_NTU, _RAIN_NTU = np.array([6.0, 0.4, 14.0]), np.array([80.0, 0.1, 12.0])
_MEAN_US_CM, _RAIN_SHARE = np.array([420.0, 310.0, 1600.0]), np.array([0.25, 0.01, 0.08])
_NOISE = np.array([0.008, 0.03, 0.008, 0.015, 0.6, 0.006, 1.2, 2.5])
_RESOLUTION = np.array([[parameter.resolution] for parameter in PARAMETERS])
_ROWS = np.arange(len(PARAMETERS), dtype=np.uint64)[:, None]
_OFFSET = np.array([0.05, 0.06, 0.15, 0.1, 8.0, 0.03, 8.0, 40.0])


@dataclass(frozen=True, slots=True)
class Spots:
    """n pairs: whose reading (a sensor, its site and number there from 0, the kind of the site), and when."""

    sensor_id: Whole
    site: Whole
    within_site: Whole
    kind: Whole
    at_us: Whole


def values_at(spots: Spots, seed: int) -> Floats:
    """Float64, shape (8, n), in the order of PARAMETERS, not rounded yet (`round_to_resolution`). Disinfectant, redox and flow
    are NaN unless the water is municipal."""
    kind, at_us = spots.kind, spots.at_us
    afternoon = np.sin((at_us % _DAY_US / _DAY_US - 10 / 24) * 2 * np.pi)  # -1 at 4 h, 1 at 16 h, UTC
    summer = np.cos((at_us % _YEAR_US / _YEAR_US - 205 / 365) * 2 * np.pi)  # 1 in late July
    rain = _rain(spots.site, at_us, seed)
    weather = _wander(spots.site, at_us, seed, 1)
    values = np.full((len(PARAMETERS), len(at_us)), np.nan)
    temperature = _MEAN_C[kind] + _YEAR_C[kind] * summer + _DAY_C[kind] * afternoon + 0.4 * weather
    saturation = _SATURATION[kind] + _DAY_SATURATION[kind] * afternoon - 0.05 * rain
    values[TEMPERATURE] = temperature
    values[OXYGEN] = oxygen_at_saturation(temperature) * saturation
    values[PH] = _MEAN_PH[kind] + _DAY_PH[kind] * afternoon - 0.15 * rain * (kind == NATURAL) + 0.03 * weather
    values[TURBIDITY] = _MEAN_NTU[kind] * (1 + 0.1 * weather) + _RAIN_NTU[kind] * rain
    values[CONDUCTIVITY] = _MEAN_US_CM[kind] * (1 - _RAIN_SHARE[kind] * rain + 0.02 * weather)
    _add_plant(values, kind == MUNICIPAL, at_us, weather)
    values += _NOISE[:, None] * _normal(seed, spots.sensor_id, at_us, _ROWS + 10)
    values += _OFFSET[:, None] * _normal(seed, spots.sensor_id, np.zeros(1, np.int64), _ROWS + 30)
    values[TURBIDITY] = np.maximum(values[TURBIDITY], 0.05)
    values[DISINFECTANT] = np.maximum(values[DISINFECTANT], 0.0)
    return values


def measured_by(kind: int) -> tuple[Parameter, ...]:
    """What a sensor in water of this kind has probes for."""
    of_plants = (DISINFECTANT, REDOX, FLOW)
    return tuple(parameter for row, parameter in enumerate(PARAMETERS) if kind == MUNICIPAL or row not in of_plants)


def round_to_resolution(values: Floats) -> NDArray[np.float32]:
    """On each parameter's grid, as a sonde reports them."""
    return np.asarray(np.round(values / _RESOLUTION) * _RESOLUTION, np.float32)


def oxygen_at_saturation(temperature_c: Floats) -> Floats:
    """mg/L in fresh water at sea level. Source: Elmore and Hayes, "Solubility of Atmospheric Oxygen in Water", Journal of the
    Sanitary Engineering Division, ASCE, 86 (1960)."""
    t = np.clip(temperature_c, 0, 40)
    return np.asarray(14.652 - 0.41022 * t + 0.0079910 * t**2 - 0.000077774 * t**3)


def noise(spots: Spots, seed: int, which: int) -> Floats:
    """Standard normal (within 3.5), independent for each pair and each `which` of 100 or more."""
    return _normal(seed, spots.sensor_id, spots.at_us, which)


def _add_plant(values: Floats, is_plant: NDArray[np.bool_], at_us: Whole, weather: Floats) -> None:
    """Drinking water: demand has a morning and an evening peak, and eats disinfectant."""
    hour = at_us[is_plant] % _DAY_US / HOUR_US
    demand = np.exp(-(((hour - 7.5) / 2) ** 2)) + 0.8 * np.exp(-(((hour - 19) / 2.5) ** 2))
    disinfectant = 0.75 - 0.08 * demand + 0.03 * weather[is_plant]
    values[DISINFECTANT, is_plant] = disinfectant
    values[REDOX, is_plant] = 650 + 180 * (disinfectant - 0.75)
    values[FLOW, is_plant] = 600 + 500 * demand


def _rain(site: Whole, at_us: Whole, seed: int) -> Floats:
    """0 dry to about 1: in every fourth slot of 12 hours a shower begins, rises in an hour and a half and drains away."""
    begin = at_us // _RAIN_SLOT_US - np.array([[0], [1], [2]])
    chance, start, strength = (_uniform(seed, site, begin, which) for which in (2, 3, 4))
    since = np.maximum(0.0, (at_us - (begin + 0.7 * start) * _RAIN_SLOT_US) / _RAIN_DECAY_US)
    shower = (0.2 + 0.8 * strength) * since * np.exp(1 - since)
    return np.asarray(np.where(chance < 0.25, shower, 0.0).sum(axis=0))


def _wander(site: Whole, at_us: Whole, seed: int, which: int) -> Floats:
    """Smooth between normal values two hours apart."""
    knot, within = np.divmod(at_us, _WANDER_US)
    share = (1 - np.cos(np.pi * within / _WANDER_US)) / 2
    return np.asarray(_normal(seed, site, knot, which) * (1 - share) + _normal(seed, site, knot + 1, which) * share)


def _normal(seed: int, who: Whole, when: Whole, which: Which) -> Floats:
    """The sum of a hash's four 16-bit parts, standardised: near enough to normal, and never beyond 3.5."""
    whole = _hash(seed, who, when, which)
    total = whole & _LOW_16
    for shift in (16, 32, 48):
        total += (whole >> np.uint64(shift)) & _LOW_16
    return np.asarray((total - 2 * 65535.0) / np.sqrt((65536.0**2 - 1) / 3))


def _uniform(seed: int, who: Whole, when: Whole, which: Which) -> Floats:
    return np.asarray((_hash(seed, who, when, which) >> np.uint64(11)) * 2.0**-53)


def _hash(seed: int, who: Whole, when: Whole, which: Which) -> NDArray[np.uint64]:
    """Of the arguments broadcast together. The mixing is that of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    number = np.atleast_1d(np.asarray(which, np.uint64))
    start = np.array([seed * 0x9E3779B97F4A7C15 % 2**64], np.uint64) + number * np.uint64(0xD1B54A32D192ED03)
    return _mix(_mix(who.astype(np.uint64) + start) + when.astype(np.uint64))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
