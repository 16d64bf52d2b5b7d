"""What came before each value of its own sensor and parameter, and where a time gap lets history start anew."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from water.anchor import SPAN_US, Anchors, follow_anchors
from water.state import WIDTH, State

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """m values that entered history, and what they stand against; all columns have length m, ordered by parameter.

    `counts`: how many of each parameter. `value`, `time_us`: themselves. `previous`: the value before (NaN: none within the gap
    limit) and `elapsed_us`, how long ago. `before`: the one before that (NaN likewise). `unchanged_us`: for how long the value
    has been the same. `anchors`: what rates are measured against.
    """

    counts: NDArray[np.intp]
    value: NDArray[np.float32]
    time_us: NDArray[np.int64]
    previous: NDArray[np.float32]
    elapsed_us: NDArray[np.int64]
    before: NDArray[np.float32]
    unchanged_us: NDArray[np.int64]
    anchors: Anchors

    def each(self, limit: NDArray[_T]) -> NDArray[_T]:
        """The limit of each value, from the limits of all parameters."""
        return np.repeat(limit, self.counts)


def enter_history(
    state: State,
    rows: NDArray[np.int64],
    time_us: NDArray[np.int64],
    values: NDArray[np.float32],
    enters: NDArray[np.bool_],
    gap_us: NDArray[np.int64],
) -> Past:
    """Moves the state on by the values where `enters` is true, and tells what each of them stands against.

    Of n readings in the order of (sensor, time): each one's row in the state, its time and gap limit; `values` and `enters` have
    shape (8, n).
    """
    value, reading = values[enters], np.broadcast_to(np.arange(len(time_us)), enters.shape)[enters]
    time = time_us[reading]
    cell = (rows * WIDTH + np.arange(WIDTH)[:, None])[enters]
    first = np.flatnonzero(np.append(True, cell[1:] != cell[:-1])) if len(cell) else np.empty(0, np.intp)
    last = np.append(first[1:], len(cell))[: len(first)] - 1
    carried = cell[first]

    elapsed_us = time - _shifted(time, first, state.time_us[carried])
    previous = _shifted(value, first, state.value[carried])
    previous[elapsed_us > gap_us[reading]] = np.nan
    before = _shifted(previous, first, state.previous[carried])
    since_us = _unchanged_since(time, value == previous, first, state.since_us[carried])
    begins = elapsed_us > np.minimum(gap_us, time_us % SPAN_US)[reading]
    anchors = follow_anchors(state, value, time, previous, begins, first, carried)

    state.value[carried] = value[last]
    state.time_us[carried] = time[last]
    state.previous[carried] = previous[last]
    state.since_us[carried] = since_us[last]
    return Past(np.count_nonzero(enters, axis=1), value, time, previous, elapsed_us, before, time - since_us, anchors)


def _shifted(column: NDArray[_T], first: NDArray[np.intp], carried: NDArray[_T]) -> NDArray[_T]:
    """Each entry's predecessor within its segment; that of a segment's first is carried over from the batch before."""
    if len(first) == len(column):
        return carried
    shifted = np.empty_like(column)
    shifted[1:] = column[:-1]
    shifted[first] = carried
    return shifted


def _unchanged_since(
    time: NDArray[np.int64], same: NDArray[np.bool_], first: NDArray[np.intp], carried: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Start of the run of equal values that each entry belongs to; `same`: equal to its predecessor."""
    origin = time.copy()
    origin[first] = np.where(same[first], carried, time[first])
    if len(first) == len(time):
        return origin
    starts = ~same
    starts[first] = True
    return origin[np.maximum.accumulate(np.where(starts, np.arange(len(time)), 0))]
