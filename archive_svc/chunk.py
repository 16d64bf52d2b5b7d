"""Which objects do the readings of one chunk make: one for each region and UTC day of measured time, in JSON also by sensor."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from archive_svc.arrivals import Part, merge
from archive_svc.manifest_record import object_path, sensor_path
from archive_svc.pack_json import by_sensor
from archive_svc.unpacked import Unpacked, in_partition
from mesh.ports import Partition
from mesh.positions import Position

MOST_PARTS = 256
_DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of a partition of one log, from the offset behind `had` to that of `new`, cut at `cut_us`. Every attempt to archive
    it makes the same objects, in Parquet or one JSON for each sensor."""

    log_id: str
    partition: Partition
    had: Position
    new: Position
    cut_us: int
    by_json: bool = False

    @property
    def first_offset(self) -> int:
        """The offset behind everything that was archived before; another one for every chunk."""
        return self.had.next


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """An object to be packed and put: its path and what it holds."""

    path: str
    found: Unpacked


class Pending:
    """What a partition has to be archived: the readings behind `had` up to `new`. `since_us`: when the first record came, None
    while there is none; `heard_us`: when the last one came."""

    def __init__(self, had: Position) -> None:
        self.had = had
        self.new = had
        self.reading_count = 0
        self.record_count = 0
        self.since_us: int | None = None
        self.heard_us = 0
        self._small: list[Part] = []
        self._large: list[Part] = []

    def add(self, part: Part, new: Position, record_count: int, now_us: int) -> None:
        """`part` is what `record_count` records up to `new` hold."""
        self.new = new
        self.record_count += record_count
        self.since_us = now_us if self.since_us is None else self.since_us
        self.heard_us = now_us
        if not len(part):
            return
        self.reading_count += len(part)
        self._small.append(part)
        if len(self._small) == MOST_PARTS:  # a trickle: arrays of one reading each take 20 times its size
            self._large.append(merge(self._small))
            self._small.clear()

    def all(self) -> Part:
        """Everything, in order. Blocks: run it in a thread."""
        return merge([*self._large, *self._small])


def plan(chunk: Chunk, part: Part) -> Iterator[Planned]:
    """The objects of the chunk by region and day, and for JSON by sensor, one after another, so that only those in work are in
    memory twice. The same for the same chunk. Blocks: run each step in a thread."""
    if not len(part):
        return
    regions, which = np.unique(part.region, return_inverse=True)
    day = part.readings.measured_at_us // _DAY_US
    order = np.lexsort((day, which))
    first = np.flatnonzero(np.r_[True, (which[order][1:] != which[order][:-1]) | (day[order][1:] != day[order][:-1])])
    for start, end in zip(first.tolist(), [*first[1:].tolist(), len(order)], strict=True):
        rows = order[start:end]
        region = regions[which[rows[0]]].decode()
        path = object_path(region, _EPOCH + timedelta(days=int(day[rows[0]])), chunk.log_id, *chunk.partition, chunk.first_offset)
        places = in_partition(chunk.partition, part.offset[rows], part.index[rows])
        found = Unpacked(part.readings.take(rows), region, places, chunk.log_id)
        if not chunk.by_json:
            yield Planned(path, found)
            continue
        found = found.in_order()
        for sensor_id, number, of_sensor in by_sensor(found.readings.sensor_id):
            yield Planned(sensor_path(path, sensor_id, number), found.take(of_sensor))
