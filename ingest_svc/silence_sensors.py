"""When was each watched sensor heard last, and which of them are silent?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ingest_svc.silence_episodes import GatewayRow
from mesh.codec.watched_sensors import WatchedSensors, no_sensors

NOBODY = -1
NEVER = 0
MOST_AT_ONCE = 1_000
_Places = NDArray[np.intp]


class SilenceSensors:
    """Columns over the watched sensors: the gateway that brought each last (a number, NOBODY: it was never heard), when, at
    which speaking time of that gateway, and since when it is silent (NEVER: it is not). 33 bytes a sensor."""

    def __init__(self, watched: WatchedSensors, periods: int, least_us: int) -> None:
        self._periods = periods
        self._least_us = least_us
        self.watched = no_sensors()
        self._columns = _columns(0)
        self.changed: set[int] = set()
        """Sensors whose episode began, was told or ended since it was kept."""
        self.watch(watched)

    def __len__(self) -> int:
        return len(self.watched)

    def watch(self, watched: WatchedSensors) -> None:
        """From now on these; what is known of those that stay is kept."""
        before, columns = self.watched.sensor_id, self._columns
        self.watched, self._columns = watched, _columns(len(watched))
        self._gateway, self._heard_us, self._spoke_us, self._began_us, self._is_told = self._columns
        self._span_us = np.maximum(self._periods * watched.period_us, self._least_us)
        places, is_kept = self.find(before)
        for new, old in zip(self._columns, columns, strict=True):
            new[places] = old[is_kept]

    def find(self, sensor_id: NDArray[np.int64]) -> tuple[_Places, NDArray[np.bool_]]:
        """The places of those that are watched, and which those are."""
        places = np.searchsorted(self.watched.sensor_id, sensor_id)
        is_watched = np.zeros(len(sensor_id), np.bool_)
        within = np.flatnonzero(places < len(self.watched))
        is_watched[within] = self.watched.sensor_id[places[within]] == sensor_id[within]
        return places[is_watched], is_watched

    def restore(self, row: GatewayRow, gateway: int) -> None:
        """What was kept of the sensors of a gateway."""
        places, is_watched = self.find(row.sensor_id)
        self._heard_us[places] = row.sensor_heard_us[is_watched]
        self._spoke_us[places] = row.sensor_spoke_us[is_watched]
        self._gateway[places] = gateway

    def restore_episode(self, sensor_id: int, began_us: int, is_told: bool) -> bool:
        """An episode that was kept; False: the sensor is not watched any more, or has no gateway."""
        places, _ = self.find(np.array([sensor_id]))
        if not len(places) or self._gateway[places[0]] == NOBODY:
            return False
        self._began_us[places], self._is_told[places] = began_us, is_told
        return True

    def hear(self, sensor_id: NDArray[np.int64], gateway: int, spoke_us: int, at_us: int) -> tuple[list[int], list[int]]:
        """These spoke. The gateways that brought any of them before, and the places of those that were silent until now."""
        places, _ = self.find(sensor_id)
        places = places[at_us > self._heard_us[places]]
        before = self._gateway[places]
        moved = before[(before != gateway) & (before != NOBODY)]
        self._heard_us[places], self._spoke_us[places], self._gateway[places] = at_us, spoke_us, gateway
        were_silent = places[self._began_us[places] != NEVER]
        if not len(moved) and not len(were_silent):
            return [], []
        return np.unique(moved).tolist(), np.unique(were_silent).tolist()

    def judge(self, spoke_us: NDArray[np.int64], since_us: NDArray[np.int64]) -> None:
        """Begins the episodes of those that missed more than their span of their gateway's speaking time, at most 1,000 at
        once. The arrays are by number of the gateway."""
        waited_us = spoke_us[self._gateway] - np.maximum(self._spoke_us, since_us[self._gateway])
        is_silent = (waited_us > self._span_us) & (self._gateway != NOBODY) & (self._began_us == NEVER)
        places = np.flatnonzero(is_silent)[:MOST_AT_ONCE]
        self._began_us[places] = self._heard_us[places] + self._span_us[places]
        self._is_told[places] = False
        self._remember(places)

    def silent(self, places: _Places) -> _Places:
        """Those of these places where an episode lasts."""
        found: _Places = places[self._began_us[places] != NEVER]
        return found

    def untold(self) -> _Places:
        """Places where an episode lasts that is not told yet."""
        return np.flatnonzero((self._began_us != NEVER) & ~self._is_told)

    def told(self, places: _Places) -> None:
        """Their episodes stand in the Log."""
        self._is_told[places] = True
        self._remember(places)

    def end(self, places: Sequence[int]) -> None:
        """Their episodes are over."""
        self._began_us[places] = NEVER
        self._remember(np.array(places, np.intp))

    def forget(self, places: _Places) -> None:
        """They are as if they had never been heard."""
        self._gateway[places], self._heard_us[places] = NOBODY, 0

    def brought_by(self, gateways: Sequence[int]) -> _Places:
        """The places of the sensors that any of these gateways was the last to bring."""
        return np.flatnonzero(np.isin(self._gateway, gateways))

    def by_gateway(self, gateways: Sequence[int]) -> list[_Places]:
        """The same for each of them."""
        order = np.argsort(self._gateway, kind="stable")
        ascending = self._gateway[order]
        ends = zip(np.searchsorted(ascending, gateways), np.searchsorted(ascending, gateways, "right"), strict=True)
        return [order[first:last] for first, last in ends]

    def columns(self, places: _Places) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Sensor, when it was heard, and at which speaking time."""
        return self.watched.sensor_id[places], self._heard_us[places], self._spoke_us[places]

    def episode(self, place: int) -> tuple[int, str, int, int, bool]:
        """Sensor, site, number of its gateway, beginning and whether it is told."""
        return (
            int(self.watched.sensor_id[place]),
            self.watched.site_id(place),
            int(self._gateway[place]),
            int(self._began_us[place]),
            bool(self._is_told[place]),
        )

    def _remember(self, places: _Places) -> None:
        self.changed.update(self.watched.sensor_id[places].tolist())


def _columns(
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Of sensors that were never heard."""
    heard_us, spoke_us, began_us = np.zeros((3, count), np.int64)
    return np.full(count, NOBODY), heard_us, spoke_us, began_us, np.ones(count, np.bool_)
