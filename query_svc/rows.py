"""What of some screened records goes to which shard, in which order, and what became of each reading."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mesh import ledger
from mesh.codec.stamp import Stamp
from mesh.shards import Shards, slot_of
from water.readings import Readings, concatenate, empty

STORED, DUPLICATE, CONFLICTING = 0, 1, 2
_MEASURES = (ledger.STORED, ledger.DUPLICATE, ledger.CONFLICTING)


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """A screened record: its place in the log, whose it is, and its readings with flags."""

    offset: int
    stamp: Stamp
    region: str
    source_offset: int
    readings: Readings


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Readings for one shard in the order (slot, sensor, time, place in the log). Every writer inserts in this order, so that
    two that have the same keys never wait for each other in a circle.

    `record`: which of `records` each came from; `index`: its place there; `head`: the first row with the same key; `outcome`:
    STORED for a head, and for the others how they compare with their head.
    """

    records: Sequence[Arrived]
    readings: Readings
    record: NDArray[np.int64]
    index: NDArray[np.int64]
    head: NDArray[np.int64]
    outcome: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.readings)

    def regions(self, take: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """The region of each of these rows, UTF-8."""
        return np.array([record.region.encode() for record in self.records])[self.record[take]]

    def counts(self, outcome: NDArray[np.int8]) -> Counter[tuple[str, int, str]]:
        """Ledger counts of these outcomes, by the stamps of the records."""
        kinds = len(_MEASURES)
        table = np.bincount(self.record * kinds + outcome, minlength=kinds * len(self.records)).reshape(-1, kinds)
        counts: Counter[tuple[str, int, str]] = Counter()
        for record, line in zip(self.records, table.tolist(), strict=True):
            for measure, count in zip(_MEASURES, line, strict=True):
                counts[record.stamp.gateway_id, record.stamp.hour_us, measure] += count
        return counts

    def of_slots(self, some: Collection[int], slots: int) -> "Rows":
        """Those of some of the slots, of which there are `slots` in all."""
        keep = np.isin(slot_of(self.readings.sensor_id, slots), list(some))
        return _rows(self.records, self.readings, self.record, self.index, np.flatnonzero(keep))


def split(records: Sequence[Arrived], had_source: NDArray[np.int64], shards: Shards) -> dict[int, Rows]:
    """Rows for each shard that owns slots, without those that their slot has had: `had_source` is the source offset up to which
    each slot skips them."""
    lengths = np.array([len(record.readings) for record in records], np.int64)
    total = int(lengths.sum())
    readings = concatenate([record.readings for record in records]) if total else empty().with_flags(np.empty(0, np.uint64))
    record = np.repeat(np.arange(len(records)), lengths)
    index = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = np.array([record.source_offset for record in records], np.int64)[record]
    slot = slot_of(readings.sensor_id, shards.slots)
    order = np.flatnonzero(source > had_source[slot])
    order = order[np.lexsort((readings.measured_at_us[order], readings.sensor_id[order], slot[order]))]
    shard = shards.owner[slot[order]]
    return {number: _rows(records, readings, record, index, order[shard == number]) for number in shards.owning}


def _rows(
    records: Sequence[Arrived],
    readings: Readings,
    record: NDArray[np.int64],
    index: NDArray[np.int64],
    take: NDArray[np.int64],
) -> Rows:
    readings = readings.take(take)
    first = np.ones(len(readings), np.bool_)
    sensor, time = readings.sensor_id, readings.measured_at_us
    first[1:] = (sensor[1:] != sensor[:-1]) | (time[1:] != time[:-1])
    head = np.maximum.accumulate(np.where(first, np.arange(len(readings)), 0))
    outcome = np.full(len(readings), STORED, np.int8)
    later = np.flatnonzero(~first)
    ours, theirs = readings.values[:, later], readings.values[:, head[later]]
    same = ((ours == theirs) | (np.isnan(ours) & np.isnan(theirs))).all(axis=0)
    outcome[later] = np.where(same, DUPLICATE, CONFLICTING)
    return Rows(records, readings, record[take], index[take], head, outcome)
