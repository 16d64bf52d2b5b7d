"""What has changed for one watcher since its last frame, in bounded memory, however slowly it reads?"""

import asyncio

import numpy as np
from numpy.typing import NDArray

from mesh.errors import Unavailable
from query_svc.selection import Selection, left
from water.newest import cut, newest
from water.readings import Readings, concatenate

MOST_SENSORS = 100_000
FRAME_READINGS = 20_000
MOST_ARRIVED = 50_000


class Watcher:
    """Keeps the newest reading of each sensor that changed. A reading that is not newer than what was shown of its sensor is
    not shown. Beyond 100,000 sensors those whose newest reading is oldest are forgotten."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._arrived: list[Readings] = []
        self._arrived_count = 0
        self._pending = concatenate([])
        self._sensors: NDArray[np.int64] = np.empty(0, np.int64)
        self._newest_us: NDArray[np.int64] = np.empty(0, np.int64)
        self._changed = asyncio.Event()
        self._closed = False

    def show(self, region: str, readings: Readings) -> None:
        """Readings that were screened. Cheap: they are looked at when a frame is made, or when many wait."""
        if self._selection.regions and region not in self._selection.regions:
            return
        sensors = self._selection.sensors
        if sensors is not None:
            mine = _known(sensors, readings.sensor_id)
            readings = readings if mine.all() else readings.take(mine)
        if len(readings):
            self._arrived.append(readings)
            self._arrived_count += len(readings)
            self._changed.set()
            if self._arrived_count > MOST_ARRIVED:
                self._merge()

    async def frame(self) -> Readings:
        """Waits until something changed, then gives up to 20,000 readings by sensor, those that were measured first; the rest
        comes with the next frame. Raises Unavailable (CLOSING) once closed."""
        while True:
            await self._changed.wait()
            if self._closed:
                raise Unavailable("the server stops: watch again", reason="CLOSING")
            self._changed.clear()
            self._merge()
            frame, self._pending = cut(self._pending, FRAME_READINGS)
            if len(self._pending):
                self._changed.set()
            if len(frame):
                return frame

    def close(self) -> None:
        """Ends `frame`, now and for ever."""
        self._closed = True
        self._changed.set()

    def _merge(self) -> None:
        """What arrived joins what is pending: of each sensor its newest reading, if it is newer than what is known."""
        arrived = left(self._selection, concatenate(self._arrived))
        self._arrived, self._arrived_count = [], 0
        arrived = newest(arrived.take(np.flatnonzero((arrived.values == arrived.values).any(axis=0))))
        arrived = arrived.take(arrived.measured_at_us > self._known_us(arrived.sensor_id))
        if not len(arrived):
            return
        self._pending = newest(concatenate([self._pending, arrived])) if len(self._pending) else arrived
        kept = ~_known(arrived.sensor_id, self._sensors)
        sensors = np.concatenate([self._sensors[kept], arrived.sensor_id])
        times = np.concatenate([self._newest_us[kept], arrived.measured_at_us])
        kept_places = np.argsort(times, kind="stable")[-MOST_SENSORS:]
        order = kept_places[np.argsort(sensors[kept_places])]
        self._sensors, self._newest_us = sensors[order], times[order]
        if len(sensors) > MOST_SENSORS:
            self._pending = self._pending.take(_known(self._sensors, self._pending.sensor_id))

    def _known_us(self, sensor_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """The newest time known of each sensor; the beginning of time where none is."""
        found = np.full(len(sensor_id), np.iinfo(np.int64).min)
        known = _known(self._sensors, sensor_id)
        found[known] = self._newest_us[np.searchsorted(self._sensors, sensor_id[known])]
        return found


def _known(ascending: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the wanted are among the ascending."""
    places = np.searchsorted(ascending, wanted)
    within = places < len(ascending)
    found = np.zeros(len(wanted), np.bool_)
    found[within] = ascending[places[within]] == wanted[within]
    return found
