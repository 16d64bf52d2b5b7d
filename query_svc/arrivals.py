"""Screened records of the Log as the recorder takes them: cut into runs, decoded, checked, each with its source offsets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mesh.aliens import is_alien, without_aliens
from mesh.codec.log_records import Screened, read_screened
from mesh.codec.stamp import Stamp, source_of, stamp_of
from mesh.errors import InvalidArgument
from mesh.ports import Partition, Stored
from query_svc.rows import Arrived
from query_svc.tables import REGION_LENGTH
from water.readings import Readings

MOST_ROWS = 50_000
FIRST_US = -210_866_803_200_000_000  # the first time that timestamptz holds; the last is beyond what our column can tell


@dataclass(frozen=True, slots=True)
class Arrival:
    """One record: what to record of it, or None and the `problem` that keeps it out of the shards."""

    stored: Stored
    stamp: Stamp
    source_offset: int
    previous_source_offset: int
    content: Arrived | None
    problem: str = ""


def cut(partition: Partition, records: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Runs of at most 50,000 readings by their headers, or of one record."""
    run: list[Stored] = []
    count = 0
    for stored in records:
        more = 0 if is_alien(stored) else stamp_of(partition, stored).count
        if run and count + more > MOST_ROWS:
            yield run
            run, count = [], 0
        run.append(stored)
        count += more
    if run:
        yield run


def read_arrivals(partition: Partition, run: Sequence[Stored]) -> list[Arrival]:
    """The records in order, but for those that our screener did not write. One whose value cannot be read is passed by means of
    its header `source`."""
    return [_read(partition, stored) for stored in without_aliens(partition, run)]


def _read(partition: Partition, stored: Stored) -> Arrival:
    stamp = stamp_of(partition, stored)
    try:
        screened = read_screened(stored.record.value)
    except InvalidArgument as error:
        return Arrival(stored, stamp, *source_of(partition, stored), None, error.message)
    problem = _problem(screened, stamp)
    content = Arrived(stored.offset, stamp, screened.region, screened.source_offset, screened.readings)
    return Arrival(stored, stamp, screened.source_offset, screened.previous_source_offset, None if problem else content, problem)


def _problem(screened: Screened, stamp: Stamp) -> str:
    """Why no shard could take it, or why it could not be counted as its headers promise; empty: nothing is wrong."""
    readings = screened.readings
    if len(readings) != stamp.count:
        return f"{len(readings)} readings, but the headers say {stamp.count}"
    return unstorable(screened.region, readings)


def unstorable(region: str, readings: Readings) -> str:
    """Why no shard could take these readings; empty: nothing is wrong."""
    if len(region) > REGION_LENGTH or "\0" in region:
        return f"region {region!r}: at most {REGION_LENGTH} characters, none of them NUL"
    if len(readings) and readings.measured_at_us.min() < FIRST_US:
        return f"measured at {readings.measured_at_us.min()} us, before the first time that PostgreSQL can hold"
    return ""
