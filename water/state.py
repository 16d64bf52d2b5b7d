"""What screening remembers of each sensor between batches: columns with one row per sensor, in the order of first sight."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS

SCHEMA = 1  # changes with the meaning of any column: a checkpoint of another schema is folded anew
WIDTH = len(PARAMETERS)
NEVER_US = -(2**62)  # further away from any time than any gap limit
_GROWTH = 1.25
_T = TypeVar("_T", bound=np.generic)


class State:
    """The memory of one (partition, lane). Finding sensors is a binary search over sorted ids; growth is amortised.

    Per sensor: `newest_us`, the newest time of any reading. Per cell, that is row * WIDTH + the parameter's place in PARAMETERS:
    `value` and `time_us` of the last value that entered history (NaN, NEVER_US: none did), `previous`, the value before it
    (NaN: none, or a gap lay between), and `since_us`, since when the value has not changed.
    """

    __slots__ = ("_ids", "_rows", "newest_us", "previous", "since_us", "time_us", "value")

    def __init__(self) -> None:
        self._ids = np.empty(0, np.int64)
        self._rows = np.empty(0, np.int64)
        self.newest_us = np.empty(0, np.int64)
        self.value = np.empty(0, np.float32)
        self.previous = np.empty(0, np.float32)
        self.time_us = np.empty(0, np.int64)
        self.since_us = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def size_bytes(self) -> int:
        """Memory of all columns, room for growth included."""
        return sum(getattr(self, name).nbytes for name in self.__slots__)

    def rows_of(self, sensors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each of these distinct, ascending ids; those never seen are entered, without history."""
        at = np.searchsorted(self._ids, sensors)
        known = np.zeros(len(sensors), np.bool_)
        within = at < len(self._ids)
        known[within] = self._ids[at[within]] == sensors[within]
        if not known.all():
            self._enter(sensors[~known], at[~known])
            at = np.searchsorted(self._ids, sensors)
        return self._rows[at]

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Everything, in the order of sensor ids: equal states give equal columns."""
        cells = (self._rows[:, None] * WIDTH + np.arange(WIDTH)).ravel()
        return {
            "sensor_id": self._ids,
            "newest_us": self.newest_us[self._rows],
            "value": self.value[cells],
            "previous": self.previous[cells],
            "time_us": self.time_us[cells],
            "since_us": self.since_us[cells],
        }

    @staticmethod
    def of(columns: Mapping[str, NDArray[np.generic]]) -> "State":
        """The state that gave these columns. Raises ValueError when they cannot be its columns, KeyError when one is missing."""
        state = State()
        ids = columns["sensor_id"]
        if ids.ndim != 1 or ids.dtype != np.int64 or (np.diff(ids.astype(np.int64)) <= 0).any():
            raise ValueError("sensor_id must be ascending int64")
        state._ids, state._rows = ids.astype(np.int64), np.arange(len(ids), dtype=np.int64)
        for name in ("newest_us", "value", "previous", "time_us", "since_us"):
            column, dtype = columns[name], getattr(state, name).dtype
            length = len(ids) * (1 if name == "newest_us" else WIDTH)
            if column.dtype != dtype or column.shape != (length,):
                raise ValueError(f"{name} is {column.dtype}{list(column.shape)}, should be {dtype}[{length}]")
            setattr(state, name, column.copy())
        return state

    def _enter(self, sensors: NDArray[np.int64], at: NDArray[np.intp]) -> None:
        first = len(self._ids)
        needed = first + len(sensors)
        if needed > len(self.newest_us):
            self._grow(max(needed, int(first * _GROWTH)))
        self._ids = np.insert(self._ids, at, sensors)
        self._rows = np.insert(self._rows, at, np.arange(first, needed))

    def _grow(self, capacity: int) -> None:
        self.newest_us = _lengthened(self.newest_us, capacity, NEVER_US)
        self.value = _lengthened(self.value, capacity * WIDTH, np.nan)
        self.previous = _lengthened(self.previous, capacity * WIDTH, np.nan)
        self.time_us = _lengthened(self.time_us, capacity * WIDTH, NEVER_US)
        self.since_us = _lengthened(self.since_us, capacity * WIDTH, NEVER_US)


def _lengthened(column: NDArray[_T], length: int, fill: float) -> NDArray[_T]:
    longer = np.full(length, fill, column.dtype)
    longer[: len(column)] = column
    return longer
