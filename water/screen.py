"""Screening: the deterministic fold (state, readings, settings) -> (flags, conditions) over one partition and lane (law 6).

Tests are those of QARTOD that need only a sensor's own past: missing, gross range, spike, rate of change, flat line, time gap;
each per value and parameter, causal, with windows in time. Source: the QARTOD manuals named in water/parameter.py.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from water.condition import Condition
from water.conditions import judge
from water.described import Described
from water.flags import RANK_FAIL, of_rank, pack
from water.flat_line import flat_line
from water.gross_range import gross_range
from water.history import enter_history
from water.limits import Limits, limits_of
from water.piece import Piece
from water.rate_of_change import rate_of_change
from water.readings import Readings
from water.rulebook import Rulebook
from water.spike import spike
from water.state import State
from water.trouble import NEVER_US

PIECE_READINGS = 2_000  # folded at once: what stays in a core's cache
MOST_CONDITIONS = 5_000
"""Of one batch, so that its screened record stays below the log's limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What screening depends on besides readings: the limits of the tests, the rules in force, and what the catalog says of the
    sensors described."""

    limits: Limits = field(default_factory=limits_of)
    rulebook: Rulebook = field(default_factory=Rulebook)

    @property
    def described(self) -> Described:
        """The sensors that somebody described."""
        return self.rulebook.described


@dataclass(frozen=True, slots=True, eq=False)
class Screening:
    """Packed flags of the readings, in their order, and the conditions that they began, changed or ended, in the order of time
    and id."""

    flags: NDArray[np.uint64]
    conditions: tuple[Condition, ...]


def screen(state: State, readings: Readings, settings: Settings, region: str = "") -> Screening:
    """Judges the readings of one batch from a region; moves the state on. The same state, readings, settings and region give the
    same. What they are cut into makes no difference, as long as nothing is late, and no batch has more than MOST_CONDITIONS.

    Readings of one sensor are taken in the order of time. One that is not newer than its sensor's newest changes nothing and
    is judged by itself alone; of several at one time the first counts as newer. Only values that pass gross range enter history,
    and only these make conditions.
    """
    order = _order(readings)
    if order is not None:
        readings = readings.take(order)
    flags = np.empty(len(readings), np.uint64)
    conditions: list[Condition] = []
    for start in range(0, len(readings), PIECE_READINGS):  # in order, so the division changes nothing but the speed
        piece = slice(start, start + PIECE_READINGS)
        columns = readings.sensor_id[piece], readings.measured_at_us[piece], readings.values[:, piece]
        flags[piece], found = _fold(state, *columns, settings, region, MOST_CONDITIONS - len(conditions))
        conditions += found
    conditions.sort(key=lambda condition: (condition.measured_us, condition.condition_id))
    if order is None:
        return Screening(flags, tuple(conditions))
    as_given = np.empty_like(flags)
    as_given[order] = flags
    return Screening(as_given, tuple(conditions))


def _fold(
    state: State,
    sensor_id: NDArray[np.int64],
    time_us: NDArray[np.int64],
    values: NDArray[np.float32],
    settings: Settings,
    region: str,
    most: int,
) -> tuple[NDArray[np.uint64], list[Condition]]:
    """Flags of at least one reading, in the order of sensor and time, and at most so many conditions."""
    begins = np.append(True, sensor_id[1:] != sensor_id[:-1])
    starts = np.flatnonzero(begins)
    sensors, counts = sensor_id[starts], np.diff(starts, append=len(sensor_id))
    found = settings.described.find(sensors)
    rows, gap_us = state.rows_of(sensors), settings.described.gap_us(found)
    newest_us = state.newest_us[rows]
    fresh = _fresh(state, rows, counts, time_us)

    ranks = gross_range(values, settings.limits)
    enters = fresh & (ranks < RANK_FAIL)
    past = enter_history(state, np.repeat(rows, counts), time_us, values, enters, np.repeat(gap_us, counts))
    worst = ranks[enters]
    for test in (spike, rate_of_change, flat_line):
        np.maximum(worst, test(past, settings.limits), out=worst)
    ranks[enters] = worst
    piece = Piece(sensors, starts, counts, found, newest_us, gap_us, time_us, values, fresh, enters, past)
    return pack(of_rank(ranks)), judge(state, piece, settings.limits, settings.rulebook, region, most)


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
