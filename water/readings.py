"""Readings as frozen columns: what flows through every stage."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """n readings. `values` has one row per parameter, in the order of PARAMETERS: float32, shape (8, n), NaN for not measured.

    `flags` is uint64 of shape (n,), four bits per parameter (water.flags), or None before screening. `source` may carry
    the wire message that the columns were read from, so that an unchanged batch is passed on without encoding it again.
    Arrays are never written to after construction.
    """

    sensor_id: NDArray[np.int64]
    measured_at_us: NDArray[np.int64]
    values: NDArray[np.float32]
    flags: NDArray[np.uint64] | None = None
    source: object = None

    def __len__(self) -> int:
        return len(self.sensor_id)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "Readings":
        """The readings at these positions (or where the mask is true), in that order; without `source`."""
        flags = None if self.flags is None else self.flags[index]
        return Readings(self.sensor_id[index], self.measured_at_us[index], self.values[:, index], flags)

    def with_flags(self, flags: NDArray[np.uint64]) -> "Readings":
        """The same readings, flagged; keeps `source`."""
        return Readings(self.sensor_id, self.measured_at_us, self.values, flags, self.source)


def empty() -> Readings:
    """No readings, no flags."""
    return Readings(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((len(PARAMETERS), 0), np.float32))


def concatenate(parts: Sequence[Readings]) -> Readings:
    """All readings of the parts, in order. Flags are kept when every part has them, else None."""
    if not parts:
        return empty()
    if len(parts) == 1:
        return parts[0]
    flags = [part.flags for part in parts if part.flags is not None]
    return Readings(
        np.concatenate([part.sensor_id for part in parts]),
        np.concatenate([part.measured_at_us for part in parts]),
        np.concatenate([part.values for part in parts], axis=1),
        np.concatenate(flags) if len(flags) == len(parts) else None,
    )
