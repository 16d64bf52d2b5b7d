"""Who was heard when, by the clock of arrival, and who has been silent for too long?

A gateway is silent when nothing of it came for its span. A sensor is silent when it gave nothing for its span of its gateway's
*speaking time*: the time between the gateway's batches, of which a pause counts at most half the least span of a sensor. So what
a gateway does not bring is held against the gateway, never against its sensors, and after a pause each sensor has time to
speak. Who was never heard is not awaited.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ingest_svc.silence_episodes import Changes, Gateway, GatewayRow, SilentSensor, gateway_task, sensor_task
from ingest_svc.silence_sensors import SilenceSensors
from mesh.codec.spoken import Spoken
from mesh.codec.tasks import Task
from mesh.codec.watched_sensors import WatchedSensors

MOST_GATEWAYS = 100_000


@dataclass(frozen=True, slots=True)
class SilenceSpans:
    """`gateway_s` 0: a gateway's silence is never told, and hides its sensors' all the same. A sensor's span is so many of its
    periods, but `sensor_least_s` at least. A gateway that was not heard for `forgotten_s` is forgotten."""

    gateway_s: float = 300.0
    sensor_periods: int = 5
    sensor_least_s: float = 60.0
    forgotten_s: float = 30 * 86_400.0


class Speakers:
    """Everybody who was heard, at most 100,000 gateways. Times are microseconds since 1970, of arrival."""

    def __init__(self, spans: SilenceSpans, watched: WatchedSensors, now_us: int) -> None:
        self._gateway_us = round(spans.gateway_s * 1e6)
        self._longest_pause_us = round(spans.sensor_least_s * 1e6) // 2
        self._forgotten_us = round(spans.forgotten_s * 1e6)
        self._since_us = now_us
        self._gateways: dict[int, Gateway] = {}
        self._number_of: dict[tuple[str, str], int] = {}
        self._free: list[int] = []
        self._sensors = SilenceSensors(watched, spans.sensor_periods, round(spans.sensor_least_s * 1e6))
        self._forgotten: set[tuple[str, str]] = set()
        self.ended: list[Task] = []
        """Episodes that ended; whoever tells them takes them away."""

    @property
    def watched_count(self) -> int:
        """How many sensors are watched."""
        return len(self._sensors)

    def restore(self, rows: Iterable[GatewayRow], silent: Iterable[SilentSensor], now_us: int) -> None:
        """What was kept, into an empty state; waiting begins anew. Episodes of sensors that are not watched any more end now."""
        for row in rows:
            gateway = Gateway(row.region, row.gateway_id, row.heard_us, row.spoke_us, is_changed=False)
            gateway.began_us, gateway.is_told = row.began_us, row.is_told
            self._sensors.restore(row, self._enter(gateway))
        for episode in silent:
            if not self._sensors.restore_episode(episode.sensor_id, episode.began_us, episode.is_told):
                self._sensors.changed.add(episode.sensor_id)
                self.ended.append(sensor_task(episode, now_us))
        self.begin_anew(now_us)

    def begin_anew(self, now_us: int) -> None:
        """Nobody could be heard until now: nobody is silent because of it."""
        self._since_us = now_us
        for gateway in self._gateways.values():
            gateway.is_resting, gateway.since_us = True, gateway.spoke_us

    def hear(self, spoken: Spoken) -> None:
        """A batch. One that was heard before changes nothing."""
        key, at_us = (spoken.region, spoken.gateway_id), spoken.received_at_us
        number = self._number_of.get(key)
        if number is None:
            number = self._enter(Gateway(*key, at_us))
        gateway = self._gateways[number]
        if at_us > gateway.heard_us:
            self._hear_gateway(gateway, at_us)
        before, ended = self._sensors.hear(spoken.sensor_id, number, gateway.spoke_us, at_us)
        for other in before:
            self._gateways[other].is_changed = True
        gateway.is_changed = True
        self._end(ended, at_us)

    def judge(self, until_us: int) -> None:
        """Begins the episodes of those who were silent for too long by `until_us`, up to which everybody was heard."""
        for gateway in self._gateways.values() if self._gateway_us else ():
            if gateway.began_us is None and until_us - max(gateway.heard_us, self._since_us) > self._gateway_us:
                gateway.began_us, gateway.is_told, gateway.is_changed = gateway.heard_us + self._gateway_us, False, True
        if self._gateways and len(self._sensors):
            spoke_us, since_us = np.zeros((2, max(self._gateways) + 1), np.int64)
            for number, gateway in self._gateways.items():
                spoke_us[number], since_us[number] = gateway.spoke_us, gateway.since_us
            self._sensors.judge(spoke_us, since_us)

    def untold(self) -> list[Task]:
        """Episodes that have begun and are not told yet, gateways first."""
        found = [(gateway, gateway.began_us) for gateway in self._gateways.values() if not gateway.is_told]
        tasks = [gateway_task(gateway, began_us, None) for gateway, began_us in found if began_us is not None]
        return tasks + [sensor_task(self._episode(place), None) for place in self._sensors.untold().tolist()]

    def told(self) -> None:
        """All that was untold stands in the Log."""
        for gateway in self._gateways.values():
            if not gateway.is_told:
                gateway.is_told = gateway.is_changed = True
        self._sensors.told(self._sensors.untold())

    def watch(self, watched: WatchedSensors, now_us: int) -> None:
        """From now on these sensors are watched; episodes of those that are not any more end now."""
        lost = np.flatnonzero(~np.isin(self._sensors.watched.sensor_id, watched.sensor_id))
        self._end(self._sensors.silent(lost).tolist(), now_us)
        self._sensors.watch(watched)
        for gateway in self._gateways.values():
            gateway.is_changed = True

    def forget(self, now_us: int) -> None:
        """Gateways that were not heard for 30 days, and the oldest beyond 100,000, with their sensors; their episodes end now."""
        gone = [n for n, gateway in self._gateways.items() if gateway.heard_us < now_us - self._forgotten_us]
        if len(self._gateways) - len(gone) > MOST_GATEWAYS:
            oldest = sorted(self._gateways, key=lambda number: self._gateways[number].heard_us)
            gone = oldest[: len(oldest) - MOST_GATEWAYS]
        places = self._sensors.brought_by(gone)
        self._end(self._sensors.silent(places).tolist(), now_us)
        self._sensors.forget(places)
        for number in gone:
            gateway = self._gateways.pop(number)
            self._free.append(number)
            del self._number_of[gateway.region, gateway.gateway_id]
            self._forgotten.add((gateway.region, gateway.gateway_id))
            if gateway.began_us is not None:
                self.ended.append(gateway_task(gateway, gateway.began_us, now_us))

    def changes(self) -> Changes:
        """What differs from what was kept."""
        changed = [number for number, gateway in self._gateways.items() if gateway.is_changed]
        rows = []
        for number, places in zip(changed, self._sensors.by_gateway(changed), strict=True):
            one = self._gateways[number]
            known = one.region, one.gateway_id, one.heard_us, one.spoke_us, one.began_us, one.is_told
            rows.append(GatewayRow(*known, *self._sensors.columns(places)))
        places, _ = self._sensors.find(np.array(sorted(self._sensors.changed), np.int64))
        silent = [self._episode(place) for place in self._sensors.silent(places).tolist()]
        ended = self._sensors.changed - {episode.sensor_id for episode in silent}
        return Changes(rows, sorted(self._forgotten - self._number_of.keys()), silent, sorted(ended))

    def kept(self) -> None:
        """The changes are durable."""
        for gateway in self._gateways.values():
            gateway.is_changed = False
        self._forgotten.clear()
        self._sensors.changed.clear()

    def _enter(self, gateway: Gateway) -> int:
        number = self._free.pop() if self._free else len(self._gateways)
        self._gateways[number] = gateway
        self._number_of[gateway.region, gateway.gateway_id] = number
        return number

    def _hear_gateway(self, gateway: Gateway, at_us: int) -> None:
        if gateway.began_us is not None:
            self.ended.append(gateway_task(gateway, gateway.began_us, at_us))
            gateway.began_us, gateway.is_told = None, True
            gateway.is_resting, gateway.since_us = True, gateway.spoke_us
        if not gateway.is_resting:
            gateway.spoke_us += min(at_us - gateway.heard_us, self._longest_pause_us)
        gateway.heard_us, gateway.is_resting = at_us, False

    def _end(self, places: list[int], at_us: int) -> None:
        if places:
            self.ended += [sensor_task(self._episode(place), at_us) for place in places]
            self._sensors.end(places)

    def _episode(self, place: int) -> SilentSensor:
        sensor_id, site_id, number, began_us, is_told = self._sensors.episode(place)
        gateway = self._gateways[number]
        return SilentSensor(sensor_id, site_id, gateway.region, gateway.gateway_id, began_us, is_told)
