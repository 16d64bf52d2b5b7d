"""Described: what people say of sensors, as far as screening asks: when history starts anew, at which site, in use or not."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from water.limits import HOUR_US

DEFAULT_GAP_US = 3 * HOUR_US


class Place(NamedTuple):
    """What rules may ask of a sensor's site. `site_id` empty, `source_type` 0: not known."""

    site_id: str = ""
    source_type: int = 0


class Description(NamedTuple):
    """Of one sensor."""

    sensor_id: int
    gap_us: int = DEFAULT_GAP_US
    place: Place = Place()
    in_service: bool = True


class Described:
    """Sensors that somebody described; all others have the defaults of Description."""

    __slots__ = ("_gap_us", "_in_service", "_place", "_sensor_id", "places")

    def __init__(self, descriptions: Iterable[Description] = ()) -> None:
        """Of several descriptions of one sensor the last counts."""
        rows = [*({row.sensor_id: row for row in descriptions}.values())]
        rows.sort()
        self.places = tuple(dict.fromkeys([Place(), *(row.place for row in rows)]))
        """Each once; the first is where nothing is known."""
        number = {place: index for index, place in enumerate(self.places)}
        default = Description(0)  # stands at the end, where index -1 finds it
        self._sensor_id = np.array([row.sensor_id for row in rows], np.int64)
        self._gap_us = np.array([row.gap_us for row in (*rows, default)], np.int64)
        self._place = np.array([number[row.place] for row in (*rows, default)], np.intp)
        self._in_service = np.array([row.in_service for row in (*rows, default)], np.bool_)

    def find(self, sensors: NDArray[np.int64]) -> NDArray[np.intp]:
        """Where each of these sensors stands, for the methods below."""
        if not len(self._sensor_id):
            return np.full(len(sensors), -1, np.intp)
        at = np.minimum(np.searchsorted(self._sensor_id, sensors), len(self._sensor_id) - 1)
        return np.where(self._sensor_id[at] == sensors, at, -1)

    def gap_us(self, found: NDArray[np.intp]) -> NDArray[np.int64]:
        """The gap limit of each."""
        return self._gap_us[found]

    def place(self, found: NDArray[np.intp]) -> NDArray[np.intp]:
        """The place of each, as an index into `places`."""
        return self._place[found]

    def in_service(self, found: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether each is in use, and not out for maintenance or for good."""
        return self._in_service[found]
