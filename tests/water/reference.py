"""Screening once more, value by value and slowly: what the vectorised fold must agree with, bit by bit.

Shares nothing with water/screen.py but the table of parameters and the numbers of the flags.
"""

from dataclasses import dataclass, field

import numpy as np

from water.flags import FAIL, GOOD, MISSING, NOT_EVALUATED, SUSPECT
from water.parameter import PARAMETERS, SENTINELS, Parameter
from water.readings import Readings

HOUR_US = 3_600_000_000
_ORDER = (NOT_EVALUATED, GOOD, SUSPECT, FAIL, MISSING)  # the worst is last


@dataclass
class History:
    """Values that entered, the newest last; begun anew after each gap."""

    values: list[np.float32] = field(default_factory=list)
    time_us: int = 0
    unchanged_since_us: int = 0


class Reference:
    """Screens batch by batch, as one lane of one partition does."""

    def __init__(self, gap_us: dict[int, int] | None = None) -> None:
        self._gap_us = gap_us or {}
        self._newest_us: dict[int, int] = {}
        self._histories: dict[tuple[int, int], History] = {}

    def screen(self, readings: Readings) -> np.ndarray:
        """uint64 flags of one batch, in its order."""
        sensors, times = readings.sensor_id.tolist(), readings.measured_at_us.tolist()
        flags = [0] * len(readings)
        for index in sorted(range(len(readings)), key=lambda i: (sensors[i], times[i])):
            flags[index] = self._reading(sensors[index], times[index], readings.values[:, index])
        return np.array(flags, np.uint64)

    def _reading(self, sensor: int, time_us: int, values: np.ndarray) -> int:
        fresh = sensor not in self._newest_us or time_us > self._newest_us[sensor]
        if fresh:
            self._newest_us[sensor] = time_us
        packed = 0
        for parameter, value in zip(PARAMETERS, values, strict=True):
            results = [_gross_range(parameter, value)]
            if fresh and results[0] in (GOOD, SUSPECT):
                results += self._against_history(sensor, parameter, time_us, value)
            packed |= max(results, key=_ORDER.index) << 4 * (parameter.number - 1)
        return packed

    def _against_history(self, sensor: int, parameter: Parameter, time_us: int, value: np.float32) -> list[int]:
        past = self._histories.setdefault((sensor, parameter.number), History())
        if past.values and time_us - past.time_us > self._gap_us.get(sensor, 3 * HOUR_US):
            past.values.clear()
        if not past.values or value != past.values[-1]:
            past.unchanged_since_us = time_us
        results = [
            _spike(parameter, past.values, value),
            _rate(parameter, past.values, time_us - past.time_us, value),
            _flat(parameter, past.values, time_us - past.unchanged_since_us),
        ]
        past.values = [*past.values[-1:], value]
        past.time_us = time_us
        return results


def _gross_range(parameter: Parameter, value: np.float32) -> int:
    if np.isnan(value):
        return MISSING
    if float(value) in SENTINELS:
        return FAIL
    if value < np.float32(parameter.fail_range[0]) or value > np.float32(parameter.fail_range[1]):
        return FAIL
    if value < np.float32(parameter.suspect_range[0]) or value > np.float32(parameter.suspect_range[1]):
        return SUSPECT
    return GOOD


def _spike(parameter: Parameter, before: list[np.float32], value: np.float32) -> int:
    if len(before) < 2:
        return NOT_EVALUATED
    size = abs(value - (before[-1] + before[-2]) / np.float32(2))
    if size > np.float32(parameter.spike_fail):
        return FAIL
    return SUSPECT if size > np.float32(parameter.spike_suspect) else GOOD


def _rate(parameter: Parameter, before: list[np.float32], elapsed_us: int, value: np.float32) -> int:
    if not before:
        return NOT_EVALUATED
    allowed = parameter.rate_suspect_per_hour / HOUR_US * max(elapsed_us, 600_000_000)
    return SUSPECT if float(abs(value - before[-1])) > allowed else GOOD


def _flat(parameter: Parameter, before: list[np.float32], unchanged_us: int) -> int:
    if not before:
        return NOT_EVALUATED
    if unchanged_us >= parameter.flat_fail_s * 1_000_000:
        return FAIL
    return SUSPECT if unchanged_us >= parameter.flat_suspect_s * 1_000_000 else GOOD
