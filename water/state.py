"""What screening remembers of each sensor between batches: columns with one row per sensor, in the order of first sight."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS
from water.trouble import NEVER_US, Troubles

SCHEMA = 2  # changes with the meaning of any column: a checkpoint of another schema is folded anew
WIDTH = len(PARAMETERS)
_GROWTH = 1.125
_CELLS = {  # per cell: what a cell without history holds
    "value": (np.float32, np.nan),
    "previous": (np.float32, np.nan),
    "time_us": (np.int64, NEVER_US),
    "since_us": (np.int64, NEVER_US),
    "span_value": (np.float32, np.nan),
    "span_phase_us": (np.uint32, 0),
    "anchor": (np.float32, np.nan),
    "anchor_lead_s": (np.float32, 0),
}
_T = TypeVar("_T", bound=np.generic)


class State:
    """The memory of one (partition, lane). Finding sensors is a binary search over sorted ids; growth is amortised.

    Per sensor: `newest_us`, the newest time of any reading. Per cell, that is row * WIDTH + the parameter's place in PARAMETERS:
    `value` and `time_us` of the last value that entered history (NaN, NEVER_US: none did), `previous`, the value before it
    (NaN: none, or a gap lay between), and `since_us`, since when the value has not changed. `span_value`: the first value of the
    span (of water.anchor) that the last one is in, `span_phase_us` after the span's begin; `anchor`: the value that rates are
    measured against (NaN: none), `anchor_lead_s` before that first one. `troubles`: what is sparse.
    """

    __slots__ = ("_ids", "_rows", "newest_us", "troubles", *_CELLS)

    value: NDArray[np.float32]
    previous: NDArray[np.float32]
    time_us: NDArray[np.int64]
    since_us: NDArray[np.int64]
    span_value: NDArray[np.float32]
    span_phase_us: NDArray[np.uint32]
    anchor: NDArray[np.float32]
    anchor_lead_s: NDArray[np.float32]

    def __init__(self) -> None:
        self._ids = np.empty(0, np.int64)
        self._rows = np.empty(0, np.int64)
        self.newest_us = np.empty(0, np.int64)
        self.troubles = Troubles()
        for name, (dtype, _) in _CELLS.items():
            setattr(self, name, np.empty(0, dtype))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def size_bytes(self) -> int:
        """Memory of all columns, room for growth included."""
        columns = (self._ids, self._rows, self.newest_us, *(getattr(self, name) for name in _CELLS))
        return int(sum(column.nbytes for column in columns)) + self.troubles.size_bytes

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
            **{name: getattr(self, name)[cells] for name in _CELLS},
            **self.troubles.columns(),
        }

    @staticmethod
    def of(columns: Mapping[str, NDArray[np.generic]]) -> "State":
        """The state that gave these columns. Raises ValueError when they cannot be its columns, KeyError when one is missing."""
        state = State()
        ids = columns["sensor_id"]
        if ids.ndim != 1 or ids.dtype != np.int64 or (np.diff(ids.astype(np.int64)) <= 0).any():
            raise ValueError("sensor_id must be ascending int64")
        state._ids, state._rows = ids.astype(np.int64), np.arange(len(ids), dtype=np.int64)
        for name in ("newest_us", *_CELLS):
            column, dtype = columns[name], getattr(state, name).dtype
            length = len(ids) * (1 if name == "newest_us" else WIDTH)
            if column.dtype != dtype or column.shape != (length,):
                raise ValueError(f"{name} is {column.dtype}{list(column.shape)}, should be {dtype}[{length}]")
            setattr(state, name, column.copy())
        state.troubles = Troubles.of(columns)
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
        for name, (_, nothing) in _CELLS.items():
            setattr(self, name, _lengthened(getattr(self, name), capacity * WIDTH, nothing))


def _lengthened(column: NDArray[_T], length: int, fill: float) -> NDArray[_T]:
    longer = np.full(length, fill, column.dtype)
    longer[: len(column)] = column
    return longer
