"""Which readings of a day stay when it is put together: the first of each sensor and time (law 5), in the order of their keys."""

import numpy as np
from numpy.typing import NDArray

from archive_svc.unpacked import Unpacked
from water.readings import Readings

MOST_DIFFERENT = 16
"""Readings of one sensor and time that are told apart by their values; of those that differ beyond, all stay."""


def first_of_each(found: Unpacked) -> tuple[Unpacked, int]:
    """Of readings in the order in which they would be put back, whatever their keys, without those that are known to have lost:
    by sensor and time the first of each, and the number of its duplicates, which go. Those with other values stay behind it, in
    the order in which they came: one of them lost, but it is not known which. Blocks: run it in a thread."""
    readings = found.readings
    order = np.lexsort((readings.measured_at_us, readings.sensor_id))  # stable: of one key the first stays first
    found = found.take(order)
    key = key_numbers(found.readings)
    keep = np.zeros(len(found), np.bool_)
    left = np.arange(len(found))
    for _ in range(MOST_DIFFERENT):
        if not len(left):
            break
        head = np.r_[True, key[left][1:] != key[left][:-1]]
        heads = left[head]
        keep[heads] = True
        mine = heads[np.cumsum(head) - 1]
        left = left[~_same(found.readings, left, mine)]
    keep[left] = True
    return found.take(keep), int(np.count_nonzero(~keep))


def key_numbers(readings: Readings) -> NDArray[np.int64]:
    """A number for each reading of sorted ones, the same for the same sensor and time, ascending."""
    sensor, time = readings.sensor_id, readings.measured_at_us
    return np.cumsum(np.r_[False, (sensor[1:] != sensor[:-1]) | (time[1:] != time[:-1])][: len(readings)])


def repeated(readings: Readings) -> NDArray[np.intp]:
    """Positions, among sorted readings, of those that share their key with another."""
    key = key_numbers(readings)
    same = key[1:] == key[:-1]
    return np.flatnonzero(np.r_[False, same][: len(key)] | np.r_[same, False][: len(key)])


def _same(readings: Readings, left: NDArray[np.intp], right: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether the values are equal, as the shards compare them: what was not measured equals itself."""
    ours, theirs = readings.values[:, left], readings.values[:, right]
    same: NDArray[np.bool_] = ((ours == theirs) | (np.isnan(ours) & np.isnan(theirs))).all(axis=0)
    return same
