"""A row of the manifest, as a value and as the immutable object that lets another deployment restore without our database."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

from mesh.errors import InvalidArgument

DATA = "water_quality_data"
PARQUET_SUFFIX = ".parquet"
JSON_SUFFIX = ".json.gz"
MANIFEST = "manifest"
MOST_BYTES = 1024 * 1024 * 1024
"""Size of the greatest object that a manifest may name."""
MOST_RECORD_BYTES = 8 * 1024
"""Size of the longest manifest record; ours have some 600."""

_DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REGION = re.compile(r"[a-z0-9_-]{1,20}")
_NAME = r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,239}\.(?:parquet|json\.gz)"
_SAFE_PATH = re.compile(rf"{DATA}/{_REGION.pattern}/(\d{{4}})/(\d\d)/(\d\d)/{_NAME}", re.ASCII)
_RECORD_PATH = re.compile(rf"{MANIFEST}/([A-Za-z0-9_-]{{1,64}})/({_REGION.pattern}/\d{{4}}/\d\d/\d\d/[^/]+)\.json", re.ASCII)
_LOG_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOPIC = re.compile(r"[a-z_]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What the archive says of one object. Times are microseconds since 1970: `first_us` and `last_us` of the first and last
    measured reading, `stored_us` when its chunk was cut. Offsets are those of the chunk that it belongs to."""

    path: str
    reading_count: int
    size_bytes: int
    sha256: str
    first_us: int
    last_us: int
    log_id: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    stored_us: int

    @property
    def region(self) -> str:
        """The region that its path names."""
        return self.path.split("/")[1]


def safe_region(region: str) -> bool:
    """Whether the region's name is safe as a part of a path."""
    return _REGION.fullmatch(region) is not None


def day_folder(region: str, day: date) -> str:
    """Where everything of a region and a UTC day lies."""
    return f"{DATA}/{region}/{day.year:04}/{day.month:02}/{day.day:02}"


def object_path(region: str, day: date, log_id: str, topic: str, partition: int, first_offset: int) -> str:
    """Where the readings of a region and a UTC day that a chunk holds are put: another place for every chunk of every log."""
    return f"{day_folder(region, day)}/{log_id[:8]}-{topic}-{partition}-{first_offset:020}{PARQUET_SUFFIX}"


def sensor_path(path: str, sensor_id: int, number: int) -> str:
    """Where the readings of one sensor are put, of those that would be put at `path` in Parquet; `number`: of the objects that it
    takes for them, from 0."""
    return f"{path.removesuffix(PARQUET_SUFFIX)}-s{sensor_id}{f'-{number}' if number else ''}{JSON_SUFFIX}"


def manifest_path(row: ManifestRow) -> str:
    """Where the row itself is put as an object: the path of what it describes, below `manifest/<log_id>`."""
    inner = row.path.removeprefix(f"{DATA}/").removesuffix(PARQUET_SUFFIX)
    return f"{MANIFEST}/{row.log_id}/{inner}.json"


def described_by(path: str) -> tuple[str, str]:
    """The path of the object that a manifest record at `path` describes, and the log that it names; of any other path itself and
    an empty name."""
    found = _RECORD_PATH.fullmatch(path)
    if not found:
        return path, ""
    return f"{DATA}/{found[2]}{'' if found[2].endswith(JSON_SUFFIX) else PARQUET_SUFFIX}", found[1]


def day_of(path: str) -> int | None:
    """Where the day begins that the path of an object names, microseconds since 1970; None: it names none."""
    found = _SAFE_PATH.fullmatch(path)
    try:
        return _begin_us(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def write_manifest_row(row: ManifestRow) -> bytes:
    """The bytes of its object: the same row, the same bytes."""
    return json.dumps(asdict(row), sort_keys=True, indent=1).encode() + b"\n"


def read_manifest_row(content: bytes) -> ManifestRow:
    """The inverse. Whoever wrote it is not trusted: raises InvalidArgument (UNSAFE_PATH) for a path that is not that of an object
    below water_quality_data/, INVALID_MANIFEST for anything else that no row of ours would say."""
    if len(content) > MOST_RECORD_BYTES:
        raise _invalid(f"{len(content)} bytes, {MOST_RECORD_BYTES} at most")
    try:
        given = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"no JSON: {error}") from error
    row = _row(given)
    check_row(row)
    return row


def check_row(row: ManifestRow) -> None:
    """Raises as `read_manifest_row` does for a row that no deployment of ours writes."""
    if not _SAFE_PATH.fullmatch(row.path) or ".." in row.path:
        shape = f"{DATA}/<region>/<year>/<month>/<day>/<name>.parquet or .json.gz, without `..`"
        raise InvalidArgument(f"the manifest names the path {row.path[:200]!r}: only {shape} is read", reason="UNSAFE_PATH")
    day_us = day_of(row.path)
    if day_us is None:
        raise InvalidArgument(f"the manifest names the path {row.path!r}, of no day of the calendar", reason="UNSAFE_PATH")
    checks = (
        (_SHA256.fullmatch(row.sha256), "sha256", "64 hexadecimal digits, a to f small"),
        (1 <= row.reading_count <= MOST_BYTES, "reading_count", "1 or more"),
        (1 <= row.size_bytes <= MOST_BYTES, "size_bytes", f"1 to {MOST_BYTES}"),
        (day_us <= row.first_us <= row.last_us, "first_us", "not before the day of the path, not behind last_us"),
        (row.last_us < day_us + _DAY_US, "last_us", "within the day of the path"),
        (_LOG_ID.fullmatch(row.log_id), "log_id", "1 to 64 letters, digits, dashes and underscores"),
        (_TOPIC.fullmatch(row.topic), "topic", "the name of a topic of the log"),
        (0 <= row.partition < 2**31, "partition", "0 or more"),
        (0 <= row.first_offset <= row.last_offset < 2**63, "first_offset", "0 or more, not behind last_offset"),
        (0 <= row.stored_us < 2**63, "stored_us", "0 or more"),
    )
    for holds, name, wanted in checks:
        if not holds:
            raise _invalid(f"{name} = {str(getattr(row, name))[:100]!r} of {row.path}: {wanted} was expected")


def _begin_us(year: int, month: int, day: int) -> int:
    return (datetime(year, month, day, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def _row(given: object) -> ManifestRow:
    if not isinstance(given, Mapping):
        raise _invalid("no object of JSON")
    values: dict[str, Any] = {}
    for field in fields(ManifestRow):
        value = given.get(field.name)
        if type(value) is not field.type:  # a bool is an int elsewhere
            raise _invalid(f"{field.name} = {str(value)[:100]!r}: a {getattr(field.type, '__name__', '')} was expected")
        values[field.name] = value
    return ManifestRow(**values)


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(f"no record of a manifest: {problem}", reason="INVALID_MANIFEST")
