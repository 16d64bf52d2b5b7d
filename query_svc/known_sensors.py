"""Which sensors have been seen with which parameters, and which of them are news?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS
from water.readings import Readings, concatenate

MOST_KNOWN = 2_000_000
_BITS = np.array([1 << (parameter.number - 1) for parameter in PARAMETERS], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class SeenSensors:
    """Sensors, ascending and unique, and the parameters that each was seen with, one bit each."""

    sensor_id: NDArray[np.int64]
    parameters: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sensor_id)


class Known:
    """Sensors and parameters that are known to be entered: at most 2,000,000 (32 MB), then forgotten and learnt again."""

    def __init__(self) -> None:
        self._seen = _nothing()

    def news(self, found: SeenSensors) -> SeenSensors:
        """Those that are not known, or not with all of these parameters."""
        places = np.searchsorted(self._seen.sensor_id, found.sensor_id)
        known = np.zeros(len(found), np.int64)
        within = np.flatnonzero(places < len(self._seen))
        same = within[self._seen.sensor_id[places[within]] == found.sensor_id[within]]
        known[same] = self._seen.parameters[places[same]]
        is_new = np.ones(len(found), np.bool_)
        is_new[same] = (found.parameters[same] & ~known[same]) != 0
        return SeenSensors(found.sensor_id[is_new], found.parameters[is_new])

    def add(self, entered: SeenSensors) -> None:
        """These are entered, durably."""
        if len(entered):
            kept = self._seen if len(self._seen) + len(entered) <= MOST_KNOWN else _nothing()
            self._seen = _together([kept, entered])


def seen(readings: Iterable[Readings]) -> SeenSensors:
    """The sensors of these readings, and what they measure."""
    all_of_them = concatenate(list(readings))
    present = (~np.isnan(all_of_them.values) * _BITS[:, None]).sum(axis=0, dtype=np.int64)
    return _together([SeenSensors(all_of_them.sensor_id, present)])


def _together(parts: Sequence[SeenSensors]) -> SeenSensors:
    sensor_id = np.concatenate([part.sensor_id for part in parts])
    parameters = np.concatenate([part.parameters for part in parts])
    if not len(sensor_id):
        return _nothing()
    order = np.argsort(sensor_id, kind="stable")
    sensors, starts = np.unique(sensor_id[order], return_index=True)
    return SeenSensors(sensors, np.bitwise_or.reduceat(parameters[order], starts))


def _nothing() -> SeenSensors:
    return SeenSensors(np.empty(0, np.int64), np.empty(0, np.int64))
