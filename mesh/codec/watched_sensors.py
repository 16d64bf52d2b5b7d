"""The bytes of a CatalogContext -> the sensors whose silence is watched, as columns."""

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from waterquality.v1 import catalog_pb2, log_pb2

from mesh.codec.wire import decode

LONGEST_PERIOD_S = 366 * 24 * 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class WatchedSensors:
    """Sensors in service with an expected period, ascending and unique; `site`: the place in `sites` of each one's site_id."""

    sensor_id: NDArray[np.int64]
    period_us: NDArray[np.int64]
    site: NDArray[np.int64]
    sites: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sensor_id)

    def site_id(self, place: int) -> str:
        """Of the sensor at this place; empty: at no site."""
        return self.sites[int(self.site[place])]


def read_watched_sensors(content: bytes) -> WatchedSensors:
    """Raises InvalidArgument (UNREADABLE_RECORD) for other bytes. A period beyond a year is taken as a year."""
    context = decode(log_pb2.CatalogContext, content)
    found = {
        sensor.sensor_id: (min(sensor.expected_period_s, LONGEST_PERIOD_S), sensor.site_id)
        for sensor in context.sensors
        if sensor.state == catalog_pb2.SENSOR_STATE_IN_SERVICE
        and sensor.expected_period_s > 0
        and isfinite(sensor.expected_period_s)
    }
    sensors = sorted(found)
    sites = tuple(sorted({site_id for _, site_id in found.values()}))
    place_of = {site_id: place for place, site_id in enumerate(sites)}
    return WatchedSensors(
        np.array(sensors, np.int64),
        np.array([round(found[sensor][0] * 1_000_000) for sensor in sensors], np.int64),
        np.array([place_of[found[sensor][1]] for sensor in sensors], np.int64),
        sites,
    )


def no_sensors() -> WatchedSensors:
    """Before any catalog is known."""
    nothing = np.empty(0, np.int64)
    return WatchedSensors(nothing, nothing, nothing, ())
