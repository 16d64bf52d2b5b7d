"""Which groups come next in an aggregate, and which sensors and readings belong to each?"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.postgres_copy import copy_out
from mesh.shard_map import SLOTS_HERE
from mesh.shards import Shards
from query_svc.places import Places
from query_svc.selection import (
    LOWEST_SENSOR,
    QUERY_TIMEOUT_S,
    Selection,
    Source,
    array,
    sensors_from,
    shards_of,
)


class Grouping(IntEnum):
    """What shares a series; numbers of the contract."""

    SENSOR = 1
    SITE = 2
    REGION = 3
    ALL = 4


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Groups that are computed together, in order, and what they are made of. `place`: SQL for a reading's group, its place
    in `keys`, from the sensor `s` and the reading `r`; `numbers`: where that is by sensor, the place of each sensor's group."""

    keys: Sequence[int | str]
    selection: Selection
    place: str
    numbers: NDArray[np.int64] | None = None

    def source(self, shards: Shards, shard: int) -> Source | None:
        """The shard's sensors, column `sensor_id`, and `place` where the group is by sensor; None: it has none."""
        if self.numbers is None or self.selection.sensors is None:
            return sensors_from(self.selection, shards, shard, LOWEST_SENSOR)
        mine = shards.of(self.selection.sensors) == shard
        plain = sensors_from(replace(self.selection, sensors=self.selection.sensors[mine]), shards, shard, LOWEST_SENSOR)
        if plain is None:
            return None
        query = "SELECT * FROM unnest(%(sensors)s::bigint[], %(places)s::bigint[]) AS u (sensor_id, place)"
        return Source(query, plain.arguments | {"places": array(self.numbers[mine])})


class Groups:
    """The groups of one question, in order of their keys: sensors by id, sites and regions by name."""

    def __init__(self, shards: Shards, places: Places, selection: Selection, grouping: Grouping) -> None:
        self._shards = shards
        self._places = places
        self._selection = selection
        self._grouping = grouping
        self._names: list[str] | None = None
        self._at_site: tuple[NDArray[np.int64], list[str]] = (np.empty(0, np.int64), [])

    async def after(self, key: int | str | None, count: int, *, including: bool = False) -> Chunk | None:
        """The next `count` groups behind this key (None: from the start), or from it on. None: there are no more."""
        match self._grouping:
            case Grouping.SENSOR:
                return await self._sensors(int(key or 0) + (0 if including else 1), count)
            case Grouping.SITE:
                return await self._sites(key, count, including)
            case Grouping.REGION:
                return await self._regions(key, count, including)
            case Grouping.ALL:
                return Chunk([""], self._selection, "0::bigint") if key is None or including else None

    async def _sensors(self, lowest: int, count: int) -> Chunk | None:
        sensors = self._selection.sensors
        if sensors is None:
            sensors = await self._seen_sensors(lowest, count)
        else:
            sensors = sensors[np.searchsorted(sensors, lowest) :][:count]
        if not len(sensors):
            return None
        return Chunk(sensors.tolist(), replace(self._selection, sensors=sensors), "s.place", np.arange(len(sensors)))

    async def _sites(self, key: int | str | None, count: int, including: bool) -> Chunk | None:
        if self._names is None:
            self._at_site = await self._places.sites_of(self._selection.sensors)
            self._names = sorted(set(self._at_site[1]))
        names = _next(self._names, key, count, including)
        if not names:
            return None
        sensors, sites = self._at_site
        place = {name: number for number, name in enumerate(names)}
        numbers = np.array([place.get(site, -1) for site in sites], np.int64)
        here = numbers >= 0
        return Chunk(names, replace(self._selection, sensors=sensors[here]), "s.place", numbers[here])

    async def _regions(self, key: int | str | None, count: int, including: bool) -> Chunk | None:
        if self._names is None:
            self._names = list(self._selection.regions) or await self._seen_regions()
        names = _next(self._names, key, count, including)
        place = "0::bigint" if len(names) == 1 else "array_position(%(regions)s::text[], r.region::text) - 1::bigint"
        return Chunk(names, replace(self._selection, regions=tuple(names)), place) if names else None

    async def _seen_sensors(self, lowest: int, count: int) -> NDArray[np.int64]:
        """The first `count` sensors from `lowest` on that the shards have seen (in the regions asked for)."""

        async def of_shard(shard: int, engine: AsyncEngine) -> NDArray[np.int64]:
            source = sensors_from(self._selection, self._shards, shard, lowest)
            if source is None:
                return np.empty(0, np.int64)
            query = f"SELECT s.sensor_id FROM ({source.query}) AS s WHERE {SLOTS_HERE} ORDER BY 1 LIMIT %(count)s"
            arguments = source.arguments | {"count": count}
            return (await copy_out(engine, query, arguments, [("sensor_id", "bigint")], QUERY_TIMEOUT_S))["sensor_id"]

        found = await self._shards.gather(of_shard, self._shards.owning)
        return np.unique(np.concatenate(found))[:count]

    async def _seen_regions(self) -> list[str]:
        """Every region that the sensors asked for were seen in."""

        async def of_shard(shard: int, engine: AsyncEngine) -> NDArray[Any]:
            source = sensors_from(self._selection, self._shards, shard, LOWEST_SENSOR)
            if source is None:
                return np.empty(0, "S20")
            query = f"""
                SELECT DISTINCT rpad(region, 20) FROM sensors_seen
                WHERE sensor_id IN (SELECT s.sensor_id FROM ({source.query}) AS s) AND {SLOTS_HERE}"""
            return (await copy_out(engine, query, source.arguments, [("region", "text20")], QUERY_TIMEOUT_S))["region"]

        found = await self._shards.gather(of_shard, shards_of(self._shards, self._selection.sensors))
        return sorted({name.decode() for part in found for name in part.tolist()})


def _next(names: list[str], key: int | str | None, count: int, including: bool) -> list[str]:
    start = 0 if key is None else (bisect_left if including else bisect_right)(names, str(key))
    return names[start : start + count]
