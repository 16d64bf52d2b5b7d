"""Readings for tests: one by hand, or many that look like those of a small fleet."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from water.parameter import BY_COLUMN, PARAMETERS
from water.readings import Readings

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z, where ManualClock starts
SECOND_US = 1_000_000
TYPICAL = (7.4, 3.0, 14.0, 9.0, 420.0, 0.4, 650.0, 1200.0)  # in the order of PARAMETERS


def at_us(at: int | str | datetime) -> int:
    """Microseconds since 1970 of a number of them, a datetime with zone, or ISO text (read as UTC without one)."""
    if isinstance(at, int):
        return at
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def a_reading(sensor_id: int = 1, at: int | str | datetime = START_US, **values: float) -> Readings:
    """One reading with these values by column name (`ph`, `turbidity_ntu`, ...); a pH of 7 when none is given."""
    return readings_of((sensor_id, at, values or {"ph": 7.0}))


def readings_of(*rows: tuple[int, int | str | datetime, dict[str, float]]) -> Readings:
    """Readings in this order from (sensor_id, at, values by column name)."""
    columns = np.full((len(PARAMETERS), len(rows)), np.nan, np.float32)
    for index, (_, _, values) in enumerate(rows):
        for name, value in values.items():
            columns[BY_COLUMN[name].number - 1, index] = value
    sensor_id = np.array([sensor for sensor, _, _ in rows], np.int64)
    return Readings(sensor_id, np.array([at_us(at) for _, at, _ in rows], np.int64), columns)


def some_readings(
    n: int,
    sensors: int | Sequence[int] = 10,
    seed: int = 0,
    start: int | str | datetime = START_US,
    period_s: float = 10.0,
    absent: float = 0.0,
) -> Readings:
    """n readings of sensors 1..`sensors` (or of these ids) in turn, `period_s` apart for each, in time order, all natural keys
    different. Values wander smoothly around TYPICAL on each parameter's grid; the same arguments give the same readings. A share
    `absent` of the values is NaN, but every reading keeps one."""
    ids = np.arange(1, sensors + 1, dtype=np.int64) if isinstance(sensors, int) else np.array(sensors, np.int64)
    random = np.random.default_rng(seed)
    turn, which = np.divmod(np.arange(n), len(ids))
    values = np.empty((len(PARAMETERS), n), np.float32)
    for row, parameter, typical in zip(values, PARAMETERS, TYPICAL, strict=True):
        wave = 0.02 * np.sin(turn / 500 + which) + 0.002 * random.standard_normal(n)
        row[:] = np.round(typical * (1 + wave) / parameter.resolution) * parameter.resolution
    if absent:
        gone = random.random(values.shape) < absent
        gone[random.integers(len(PARAMETERS), size=n), np.arange(n)] = False
        values[gone] = np.nan
    measured_at_us = at_us(start) + turn * round(period_s * SECOND_US)
    return Readings(ids[which], measured_at_us.astype(np.int64), values)
