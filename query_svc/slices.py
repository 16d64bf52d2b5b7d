"""The next readings of a selection by sensor and time, from all its shards: what pages and bulk frames are cut from."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mesh.shard_map import SLOTS_HERE
from mesh.shards import Shards
from query_svc.selection import (
    LOWEST_SENSOR,
    Selection,
    moment,
    read_readings,
    readings_condition,
    sensors_from,
    time_range,
    value_columns,
)
from water.readings import Readings, concatenate


class Place(NamedTuple):
    """A reading's place in the order of answers: one natural key, so no two share it."""

    sensor_id: int
    measured_at_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Readings by sensor and time, with their regions when they were asked for."""

    readings: Readings
    regions: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.readings)

    def take(self, index: NDArray[np.intp]) -> "Slice":
        """Those at these positions."""
        return Slice(self.readings.take(index), self.regions[index] if len(self.regions) else self.regions)

    def cut(self, start: int, end: int) -> "Slice":
        """Those from one position up to, not with, another; shares memory with this slice."""
        part, flags = self.readings, self.readings.flags
        kept = slice(start, end)
        cut = Readings(
            part.sensor_id[kept], part.measured_at_us[kept], part.values[:, kept], None if flags is None else flags[kept]
        )
        return Slice(cut, self.regions[kept])

    def place(self, index: int) -> Place:
        """Where one of them stands."""
        return Place(int(self.readings.sensor_id[index]), int(self.readings.measured_at_us[index]))


async def read_slice(
    shards: Shards, shard: int, selection: Selection, after: Place | None, limit: int, *, regions: bool = False
) -> Slice:
    """The first `limit` readings of one shard behind `after`; fewer only when there are no more."""
    source = sensors_from(selection, shards, shard, after.sensor_id if after else LOWEST_SENSOR)
    if source is None:
        return merged([])
    condition, more = readings_condition(selection)
    times, when = time_range(selection)
    arguments = source.arguments | more | when | {"limit": limit}
    if after:
        # An index condition: the sensor that the last slice ended in is not read from its beginning again.
        times += " AND r.timestamp > CASE WHEN s.sensor_id = %(after)s THEN %(after_time)s ELSE '-infinity' END"
        arguments |= {"after": after.sensor_id, "after_time": moment(after.measured_at_us)}
    query = f"""
        SELECT s.sensor_id, r.timestamp, {value_columns(selection)}, r.flags{", rpad(r.region, 20)" if regions else ""}
        FROM ({source.query}) AS s CROSS JOIN LATERAL (
            SELECT * FROM sensor_readings AS r WHERE r.sensor_id = s.sensor_id AND {times} AND {condition}
            ORDER BY r.timestamp LIMIT %(limit)s) AS r
        WHERE {SLOTS_HERE} ORDER BY s.sensor_id, r.timestamp LIMIT %(limit)s"""
    return Slice(*await read_readings(shards, shard, selection, query, arguments, regions=regions))


def merged(parts: list[Slice]) -> Slice:
    """All readings of the parts, by sensor and time. Each part is in this order, and no sensor is in two of them; so a stable
    sort by sensor is enough, and quick on what is sorted in runs."""
    parts = [part for part in parts if len(part)]
    if len(parts) == 1:
        return parts[0]
    readings = concatenate([part.readings for part in parts])
    regions = np.concatenate([part.regions for part in parts]) if parts else np.empty(0, "S20")
    if readings.flags is None:
        readings = readings.with_flags(np.empty(0, np.uint64))
    return Slice(readings, regions).take(np.argsort(readings.sensor_id, kind="stable"))
