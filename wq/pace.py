"""When each reading of a file is due: at once, or in the rhythm in which it was measured."""

import re

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidArgument

_TIMES = re.compile(r"(\d+(?:\.\d+)?)x")


def read_speed(text: str) -> float | None:
    """Seconds of measurement per second: "realtime" 1, "60x" 60; "max": None. Raises InvalidArgument."""
    if text == "max":
        return None
    if text == "realtime":
        return 1.0
    found = _TIMES.fullmatch(text)
    if not found or not float(found[1]) > 0:
        raise InvalidArgument(f"{text!r} is no speed; write max, realtime, or a factor such as 60x")
    return float(found[1])


class Pace:
    """The rhythm of one file, counted from its first reading. A reading that is older than one before it is due at once."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._start_us: int | None = None
        self._latest_us = 0

    def due_s(self, measured_at_us: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds after the start at which each reading is due, never falling. Call it piece by piece, in order."""
        if self._start_us is None:
            self._start_us = self._latest_us = int(measured_at_us[0])
        reached_us = np.maximum(np.maximum.accumulate(measured_at_us), self._latest_us)
        self._latest_us = int(reached_us[-1])
        due: NDArray[np.float64] = (reached_us - self._start_us) / (1e6 * self._speed)
        return due
