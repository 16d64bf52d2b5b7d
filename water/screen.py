"""Screening: the deterministic fold (state, readings, settings) -> flags over one partition and lane (law 6).

Tests are those of QARTOD that need only a sensor's own past: missing, gross range, spike, rate of change, flat line, time gap;
each per value and parameter, causal, with windows in time. Source: the QARTOD manuals named in water/parameter.py.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from water.flags import RANK_FAIL, of_rank, pack
from water.flat_line import flat_line
from water.gross_range import gross_range
from water.history import enter_history
from water.limits import HOUR_US, Limits, limits_of
from water.rate_of_change import rate_of_change
from water.readings import Readings
from water.spike import spike
from water.state import NEVER_US, State

DEFAULT_GAP_US = 3 * HOUR_US
PIECE_READINGS = 2_000  # folded at once: what stays in a core's cache


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What screening depends on besides readings: the limits, and after which gap a sensor's history starts anew, which is
    DEFAULT_GAP_US but for the sensors named (ascending, distinct)."""

    limits: Limits = field(default_factory=limits_of)
    sensor_id: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    gap_us: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def gap_us_of(self, sensors: NDArray[np.int64]) -> NDArray[np.int64]:
        """The gap limit of each of these sensors."""
        gap_us = np.full(len(sensors), DEFAULT_GAP_US)
        if len(self.sensor_id):
            at = np.minimum(np.searchsorted(self.sensor_id, sensors), len(self.sensor_id) - 1)
            named = self.sensor_id[at] == sensors
            gap_us[named] = self.gap_us[at[named]]
        return gap_us


def screen(state: State, readings: Readings, settings: Settings) -> NDArray[np.uint64]:
    """Packed flags of the readings, in their order; moves the state on. The same state, readings and settings give the same.

    Readings of one sensor are taken in the order of time. One that is not newer than its sensor's newest changes nothing and
    is judged by itself alone; of several at one time the first counts as newer. Only values that pass gross range enter history.
    """
    order = _order(readings)
    if order is not None:
        readings = readings.take(order)
    flags = np.empty(len(readings), np.uint64)
    for start in range(0, len(readings), PIECE_READINGS):  # in order, so the division changes nothing but the speed
        piece = slice(start, start + PIECE_READINGS)
        columns = readings.sensor_id[piece], readings.measured_at_us[piece], readings.values[:, piece]
        flags[piece] = _fold(state, *columns, settings)
    if order is None:
        return flags
    as_given = np.empty_like(flags)
    as_given[order] = flags
    return as_given


def _fold(
    state: State, sensor_id: NDArray[np.int64], time_us: NDArray[np.int64], values: NDArray[np.float32], settings: Settings
) -> NDArray[np.uint64]:
    """Flags of at least one reading, in the order of sensor and time."""
    starts = np.append(True, sensor_id[1:] != sensor_id[:-1])
    sensors, counts = sensor_id[starts], np.diff(np.flatnonzero(np.append(starts, True)))
    rows, gap_us = state.rows_of(sensors), settings.gap_us_of(sensors)
    fresh = _fresh(state, rows, counts, time_us)

    ranks = gross_range(values, settings.limits)
    enters = fresh & (ranks < RANK_FAIL)
    past = enter_history(state, np.repeat(rows, counts), time_us, values, enters, np.repeat(gap_us, counts))
    worst = ranks[enters]
    for test in (spike, rate_of_change, flat_line):
        np.maximum(worst, test(past, settings.limits), out=worst)
    ranks[enters] = worst
    return pack(of_rank(ranks))


def _order(readings: Readings) -> NDArray[np.intp] | None:
    """The stable order by sensor and time; None when the readings have it already."""
    sensor_id, time_us = readings.sensor_id, readings.measured_at_us
    step = sensor_id[1:] == sensor_id[:-1]
    if not ((sensor_id[1:] < sensor_id[:-1]) | (step & (time_us[1:] < time_us[:-1]))).any():
        return None
    return np.lexsort((time_us, sensor_id))


def _fresh(state: State, rows: NDArray[np.int64], counts: NDArray[np.intp], time_us: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which readings, `counts` of them per row, are newer than all that their sensor gave before; moves its newest time on."""
    newest_us = state.newest_us[rows]
    ends = np.cumsum(counts)
    before_us = np.append(NEVER_US, time_us[:-1])
    before_us[ends - counts] = NEVER_US
    state.newest_us[rows] = np.maximum(newest_us, time_us[ends - 1])
    return (time_us > np.repeat(newest_us, counts)) & (time_us > before_us)
