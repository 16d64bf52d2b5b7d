"""Anchor: the value that a rate is measured against, the first of the five-minute span before, of the same sensor and parameter.

Spans are those of the clock (measured time), and the one before is the nearest that had a value. So a rate spans five to ten
minutes where readings are dense, and one step where they are far apart: at ten seconds a step the last digit of any probe moves
faster than water ever does. Where history begins, also after a time gap, the first value is the anchor of its own span, and has
none itself. Rules of RATE and the detector use it.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from water.limits import LEAST_BASE_US, SECOND_US
from water.state import State

SPAN_US = 300 * SECOND_US
_LEAST_BASE_S = np.float32(LEAST_BASE_US / SECOND_US)
_HOUR_S = np.float32(3600)
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Anchors:
    """Anchors of m values in the order of cell and time, by the stretches of `lengths` values that have one in common: `value`
    (float32, NaN: none) was measured `lead_s` (float32) before `span_us`, when the first of the stretch's span was."""

    lengths: NDArray[np.intp]
    value: NDArray[np.float32]
    span_us: NDArray[np.int64]
    lead_s: NDArray[np.float32]

    def each(self, column: NDArray[_T]) -> NDArray[_T]:
        """A column of stretches, for each value."""
        return column if len(column) == self.lengths.sum() else np.repeat(column, self.lengths)

    def rate_per_hour(self, value: NDArray[np.float32], time_us: NDArray[np.int64]) -> NDArray[np.float32]:
        """How fast each value moved away from its anchor, falls negative, over at least LEAST_BASE_US; NaN without an anchor."""
        age_s = self.each(self.lead_s) + _seconds(time_us - self.each(self.span_us))
        rate: NDArray[np.float32] = (value - self.each(self.value)) / (np.maximum(age_s, _LEAST_BASE_S) / _HOUR_S)
        return rate


def follow_anchors(
    state: State,
    value: NDArray[np.float32],
    time_us: NDArray[np.int64],
    previous: NDArray[np.float32],
    begins: NDArray[np.bool_],
    first: NDArray[np.intp],
    carried: NDArray[np.int64],
) -> Anchors:
    """Moves the state's anchors on by m values in the order of cell and time, and tells the anchor of each.

    `previous`: the value before, NaN where history starts anew; `begins`: it is the first of a span, or after a gap. `first`:
    where each cell's values begin, `carried`: that cell. The state's `time_us` must still be that of the batch before.
    """
    was_us = state.time_us[carried]
    was_us += state.span_phase_us[carried] - was_us % SPAN_US
    was_value, was_lead_s = state.anchor[carried], state.anchor_lead_s[carried]
    if not begins.any():
        return Anchors(np.diff(first, append=len(value)), was_value, was_us, was_lead_s)

    heads = begins.copy()
    heads[first] = True
    head = np.flatnonzero(heads)  # where stretches begin: with a span, or with a cell's values, within a span
    place = np.searchsorted(head, first)
    goes_on = ~begins[first]
    span_value = np.where(begins[head], value[head], np.float32(np.nan))
    span_value[place[goes_on]] = state.span_value[carried[goes_on]]
    span_us = time_us[head]
    span_us[place[goes_on]] = was_us[goes_on]

    anchor, anchor_us = np.roll(span_value, 1), np.roll(span_us, 1)
    anchor[place], anchor_us[place] = state.span_value[carried], was_us
    alone = np.isnan(previous[head])
    anchor[alone], anchor_us[alone] = span_value[alone], span_us[alone]
    lead_s = _seconds(span_us - anchor_us)
    anchor[place[goes_on]], lead_s[place[goes_on]] = was_value[goes_on], was_lead_s[goes_on]
    lead_s[np.isnan(anchor)] = 0

    last = np.append(place[1:], len(head)) - 1
    state.span_value[carried] = span_value[last]
    state.span_phase_us[carried] = span_us[last] % SPAN_US
    state.anchor[carried] = anchor[last]
    state.anchor_lead_s[carried] = lead_s[last]
    return Anchors(np.diff(head, append=len(value)), anchor, span_us, lead_s)


def _seconds(span_us: NDArray[np.int64]) -> NDArray[np.float32]:
    return (span_us / SECOND_US).astype(np.float32)
