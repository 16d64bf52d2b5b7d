"""Screened records of the Log as the archive takes them: decoded, checked, and put together as columns."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archive_svc.manifest_record import safe_region
from mesh.aliens import without_aliens
from mesh.codec.log_records import Screened, read_screened
from mesh.codec.stamp import Stamp, source_of, stamp_of
from mesh.errors import Fault, InvalidArgument
from mesh.ports import Partition, Stored
from water.readings import Readings, concatenate, empty

FIRST_US = -62_135_596_800_000_000
LAST_US = 253_402_300_799_999_999
"""Measured times from the year 1 to the year 9999, which a path can name."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Readings of some records, with flags and their places in the log; `region` is one of UTF-8 per reading. `counts`: readings
    by gateway and hour of arrival."""

    readings: Readings
    region: NDArray[np.bytes_]
    offset: NDArray[np.int64]
    index: NDArray[np.int32]
    counts: Counter[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.readings)


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What some records come to: a part for the archive, those that cannot be archived with the problem of each, and the source
    offset of the last."""

    part: Part
    dead: tuple[tuple[Stored, str], ...]
    source_offset: int


def take(partition: Partition, records: Sequence[Stored], had_source: int) -> Taken:
    """What records that follow `had_source` come to; those at or before it were had and are dropped, and so are those that our
    screener did not write. Raises Fault at a hole. Blocks: run it in a thread."""
    found: list[tuple[Stored, Stamp, Screened]] = []
    dead: list[tuple[Stored, str]] = []
    for stored in without_aliens(partition, records):
        stamp, screened, problem = _read(partition, stored)
        source, previous = (screened.source_offset, screened.previous_source_offset) if screened else source_of(partition, stored)
        if source <= had_source:
            continue
        if previous != had_source:
            where = f"{partition.topic}/{partition.number} offset {stored.offset}"
            raise Fault(f"{where} follows source offset {previous}, but {had_source} was had last: records are missing")
        had_source = source
        if screened is None or problem:
            dead.append((stored, problem))
        elif stamp.count:
            found.append((stored, stamp, screened))
    return Taken(_part(found), tuple(dead), had_source)


def merge(parts: Sequence[Part]) -> Part:
    """All readings of the parts, in order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return _part([])
    return Part(
        concatenate([part.readings for part in parts]),
        np.concatenate([part.region for part in parts]),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.index for part in parts]),
        sum((part.counts for part in parts), Counter()),
    )


def _read(partition: Partition, stored: Stored) -> tuple[Stamp, Screened | None, str]:
    stamp = stamp_of(partition, stored)
    try:
        screened = read_screened(stored.record.value)
    except InvalidArgument as error:
        return stamp, None, error.message
    return stamp, screened, _problem(screened, stamp)


def _problem(screened: Screened, stamp: Stamp) -> str:
    """Why no object could hold it, or why it could not be counted as its headers promise; empty: nothing is wrong."""
    readings = screened.readings
    if len(readings) != stamp.count:
        return f"{len(readings)} readings, but the headers say {stamp.count}"
    if len(readings) and not safe_region(screened.region):
        return f"region {screened.region[:80]!r} names no folder: 1 to 20 characters of a-z 0-9 _ -"
    if len(readings) and not FIRST_US <= readings.measured_at_us.min() <= readings.measured_at_us.max() <= LAST_US:
        outside = (readings.measured_at_us < FIRST_US) | (readings.measured_at_us > LAST_US)
        return f"measured at {readings.measured_at_us[outside][0]} us, outside the years 1 to 9999"
    return ""


def _part(found: Sequence[tuple[Stored, Stamp, Screened]]) -> Part:
    counts: Counter[tuple[str, int]] = Counter()
    for _, stamp, _ in found:
        counts[stamp.gateway_id, stamp.hour_us] += stamp.count
    lengths = np.array([stamp.count for _, stamp, _ in found], np.int64)
    total = int(lengths.sum())
    # Without `source`: the messages that they were read from are as large again.
    readings = concatenate([_plain(screened.readings) for _, _, screened in found]) if found else _nothing()
    return Part(
        readings,
        np.repeat(np.array([screened.region.encode() for _, _, screened in found], np.bytes_), lengths),
        np.repeat(np.array([stored.offset for stored, _, _ in found], np.int64), lengths),
        (np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)).astype(np.int32),
        counts,
    )


def _plain(readings: Readings) -> Readings:
    return Readings(readings.sensor_id, readings.measured_at_us, readings.values, readings.flags)


def _nothing() -> Readings:
    return empty().with_flags(np.empty(0, np.uint64))
