"""Which objects do the readings of one chunk make: one for each region and UTC day of measured time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from archive_svc.arrivals import Part, merge
from archive_svc.manifest_record import object_path
from archive_svc.pack import Places
from mesh.ports import Partition
from mesh.positions import Position
from water.readings import Readings

MOST_PARTS = 256
_DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of a partition of one log, from the offset behind `had` to that of `new`, cut at `cut_us`. Every attempt to archive
    it makes the same objects."""

    log_id: str
    partition: Partition
    had: Position
    new: Position
    cut_us: int

    @property
    def first_offset(self) -> int:
        """The offset behind everything that was archived before; another one for every chunk."""
        return self.had.next


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """An object to be packed and put: its path and what it holds."""

    path: str
    region: str
    readings: Readings
    places: Places


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
    """The objects of the chunk by region and day, one after another, so that only those in work are in memory twice. The same for
    the same chunk. Blocks: run each step in a thread."""
    if not len(part):
        return
    regions, which = np.unique(part.region, return_inverse=True)
    day = part.readings.measured_at_us // _DAY_US
    order = np.lexsort((day, which))
    first = np.flatnonzero(np.r_[True, (which[order][1:] != which[order][:-1]) | (day[order][1:] != day[order][:-1])])
    for start, end in zip(first.tolist(), [*first[1:].tolist(), len(order)], strict=True):
        rows = order[start:end]
        yield _planned(chunk, part, regions[which[rows[0]]].decode(), int(day[rows[0]]), rows)


def _planned(chunk: Chunk, part: Part, region: str, day: int, rows: NDArray[np.intp]) -> Planned:
    topic, number = chunk.partition
    path = object_path(region, _EPOCH + timedelta(days=day), chunk.log_id, topic, number, chunk.first_offset)
    return Planned(path, region, part.readings.take(rows), Places(topic, number, part.offset[rows], part.index[rows]))
