"""Headers of a log record <-> Stamp (whose readings, from which hour, how many) and source offsets: enough to count a record, or
to bury it and go on behind it, without reading its value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.errors import Fault
from mesh.ports import Partition, Stored

HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Stamp:
    """`hour_us`: start of the hour of arrival; `reasons`: refused readings by RejectionReason number."""

    gateway_id: str
    hour_us: int
    count: int
    reasons: Mapping[int, int] = field(default_factory=dict)


NOBODY = Stamp("", 0, 0)


def hour_of(at_us: int) -> int:
    """Start of the hour of a time, both in microseconds since 1970-01-01T00:00:00Z."""
    return at_us - at_us % HOUR_US


def write_stamp(stamp: Stamp) -> dict[str, str]:
    """As the headers `gateway`, `hour`, `count` and, where something was refused, `reasons`."""
    headers = {"gateway": stamp.gateway_id, "hour": str(stamp.hour_us), "count": str(stamp.count)}
    if stamp.reasons:
        headers["reasons"] = ",".join(f"{reason}:{count}" for reason, count in sorted(stamp.reasons.items()))
    return headers


def read_stamp(headers: Mapping[str, str]) -> Stamp:
    """The stamp of a record; NOBODY for a record without readings (no headers). Raises ValueError when unreadable."""
    if "gateway" not in headers:
        return NOBODY
    pairs = (pair.split(":") for pair in headers.get("reasons", "").split(",") if pair)
    reasons = {int(reason): int(count) for reason, count in pairs}
    missing = {"hour", "count"} - headers.keys()
    if missing:
        raise ValueError(f"header `gateway` without {', '.join(sorted(missing))}")
    return Stamp(headers["gateway"], int(headers["hour"]), int(headers["count"]), reasons)


def write_source(source_offset: int, previous_source_offset: int) -> dict[str, str]:
    """The header `source` of a screened record: the same two offsets as in its value, for a reader that cannot read the value."""
    return {"source": f"{source_offset}:{previous_source_offset}"}


def read_source(headers: Mapping[str, str]) -> tuple[int, int] | None:
    """(source_offset, previous_source_offset); None without the header. Raises ValueError when unreadable."""
    if "source" not in headers:
        return None
    source_offset, previous = headers["source"].split(":")
    return int(source_offset), int(previous)


def write_conditions(count: int) -> dict[str, str]:
    """The header `conditions` of a record that has some; one that has none is without it."""
    return {"conditions": str(count)} if count else {}


def read_conditions(headers: Mapping[str, str]) -> int:
    """How many conditions a record has, so that who wants them need not read one without. Raises ValueError when unreadable."""
    return int(headers.get("conditions", "0"))


def stamp_of(partition: Partition, stored: Stored) -> Stamp:
    """The stamp of a stored record. Raises Fault that names its place where it is unreadable: our own stages write it."""
    try:
        return read_stamp(stored.record.headers)
    except ValueError as error:
        raise Fault(f"headers of {partition.topic}/{partition.number} offset {stored.offset}: {error}") from error


def source_of(partition: Partition, stored: Stored) -> tuple[int, int]:
    """The source offsets of a screened record whose value cannot be read. Raises Fault as `stamp_of` does, and where there are
    none."""
    try:
        source = read_source(stored.record.headers)
    except ValueError:
        source = None
    if source is None:
        where = f"{partition.topic}/{partition.number} offset {stored.offset}"
        raise Fault(f"{where} can be read neither by its value nor by its header `source`")
    return source
