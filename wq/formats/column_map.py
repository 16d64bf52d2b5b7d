"""Which column of a file is what, in which unit and zone: the column map, and how it is read from MAP.toml."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.errors import InvalidArgument, NotFound, WaterError
from wq.formats.units import unit_of
from wq.formats.zones import zone_of

HOW_TO_WRITE = """\
# MAP.toml: what the columns mean. Needed: [time] and one [[column]].
delimiter = ";"             # default: found in the header: , ; or tab
decimal = ","               # default: "."
missing = ["", "-9999"]     # default: "" and "NaN"; -9999.0 is it too
ignore = ["Remarks"]        # columns that are known and not sent
sensor_id = "Station"       # default: all rows are --sensor-id

[time]
columns = ["Date", "Time"]  # joined by a space
format = "%d.%m.%Y %H:%M"   # strptime, "iso" (default), "unix", "unix_ms"
zone = "Europe/Berlin"      # or "UTC", "+01:00"; an offset in a row wins
# zone_column = "tz"        # instead of zone: one in each row

[[column]]
name = "Leitf."             # as it stands in the header
parameter = "conductivity_us_cm"
unit = "mS/cm"              # converted; not needed for ph
# missing = ["-1"]          # default: as above
# sensor = 1                # a second probe: sensor --sensor-id + 1
"""
_TOP = {"delimiter", "decimal", "missing", "ignore", "sensor_id", "time", "column"}
_TIME = {"columns", "format", "zone", "zone_column"}
_COLUMN = {"name", "parameter", "unit", "missing", "sensor"}
DEFAULT_MISSING = ("", "NaN")
LARGEST_PROBE = 9


@dataclass(frozen=True, slots=True)
class TimeColumns:
    """The columns that, joined by a space, are the time of a row. `format` is "iso", "unix", "unix_ms" or a strptime pattern;
    the zone of a text without an offset is `zone`, or what stands in `zone_column`."""

    columns: tuple[str, ...]
    format: str = "iso"
    zone: str = "UTC"
    zone_column: str = ""


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """A column of values of one parameter (its name in ReadingColumns) from probe number `sensor` of the station."""

    name: str
    parameter: str
    unit: str
    sensor: int = 0
    missing: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """A format of file. `required` columns must be there; value columns of a known format may be absent."""

    title: str
    time: TimeColumns
    values: tuple[ValueColumn, ...]
    missing: tuple[str, ...] = DEFAULT_MISSING
    delimiter: str = ""
    decimal_comma: bool = False
    sensor_id: str = ""
    ignored: frozenset[str] = frozenset()
    required: frozenset[str] = field(default=frozenset())

    @property
    def needed(self) -> frozenset[str]:
        """Columns without which the file cannot be read."""
        others = {name for name in (self.sensor_id, self.time.zone_column) if name}
        return self.required | others | set(self.time.columns)

    @property
    def known(self) -> frozenset[str]:
        """Every column that the map has an opinion about."""
        return self.needed | self.ignored | {column.name for column in self.values}


def read_column_map(path: Path) -> ColumnMap:
    """The map in a TOML file (HOW_TO_WRITE). Raises NotFound, or InvalidArgument that lists every problem at once."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file; `wq replay --help` shows what a column map looks like") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"{path}: cannot be read as TOML: {error}", reason="INVALID_COLUMN_MAP") from None
    problems: list[str] = []
    column_map = _column_map(path.name, content, problems)
    if problems:
        raise InvalidArgument(f"{path}: " + "; ".join(problems), reason="INVALID_COLUMN_MAP")
    return column_map


def _column_map(title: str, content: dict[str, Any], problems: list[str]) -> ColumnMap:
    _only(content, _TOP, "", problems)
    time = content.get("time")
    columns = content.get("column")
    if not isinstance(time, dict):
        problems.append("[time] is missing: it names the columns that hold the time")
        time = {"columns": ["-"], "zone": "UTC"}
    if not isinstance(columns, list) or not columns or not all(isinstance(column, dict) for column in columns):
        problems.append("no [[column]]: at least one names a column, its parameter and its unit")
        columns = []
    values = tuple(_value_column(column, problems) for column in columns)
    decimal = content.get("decimal", ".")
    if decimal not in (".", ","):
        problems.append(f'decimal = {decimal!r} must be "." or ","')
    delimiter = content.get("delimiter", "")
    if not isinstance(delimiter, str) or len(delimiter) > 1 or delimiter in ('"', "\n", "\r"):
        problems.append(f"delimiter = {delimiter!r} must be one character, for example ';'")
        delimiter = ""
    _each_once(values, problems)
    return ColumnMap(
        title=title,
        time=_time_columns(time, problems),
        values=values,
        missing=_texts(content, "missing", DEFAULT_MISSING, problems),
        delimiter=delimiter,
        decimal_comma=decimal == ",",
        sensor_id=_text(content, "sensor_id", "", problems),
        ignored=frozenset(_texts(content, "ignore", (), problems)),
        required=frozenset(value.name for value in values),
    )


def _time_columns(content: dict[str, Any], problems: list[str]) -> TimeColumns:
    _only(content, _TIME, "time.", problems)
    columns = _texts(content, "columns", (), problems)
    if not columns:
        problems.append("time.columns is missing: the names of the columns that hold the time")
    pattern = _text(content, "format", "iso", problems)
    if pattern not in ("iso", "unix", "unix_ms") and "%" not in pattern:
        problems.append(
            f'time.format = {pattern!r} must be "iso", "unix", "unix_ms" or a strptime pattern such as "%d.%m.%Y %H:%M"'
        )
    zone, zone_column = _text(content, "zone", "", problems), _text(content, "zone_column", "", problems)
    if zone and zone_column:
        problems.append("time.zone and time.zone_column exclude each other")
    elif not zone and not zone_column and pattern not in ("unix", "unix_ms") and "%z" not in pattern:
        problems.append('time.zone is missing: an IANA name such as "Europe/Berlin", "UTC", or a fixed offset such as "+01:00"')
    if zone:
        try:
            zone_of(zone)
        except WaterError as error:
            problems.append(f"time.zone: {error.message}")
    return TimeColumns(columns, pattern, zone or "UTC", zone_column)


def _value_column(content: dict[str, Any], problems: list[str]) -> ValueColumn:
    name, parameter = _text(content, "name", "", problems), _text(content, "parameter", "", problems)
    path = f"column {name!r}: "
    _only(content, _COLUMN, path, problems)
    if not name:
        problems.append("a [[column]] without name: it is the column's name in the header")
    unit = _text(content, "unit", "", problems)
    try:
        unit_of(parameter, unit)
    except WaterError as error:
        problems.append(path + error.message)
    sensor = content.get("sensor", 0)
    if not isinstance(sensor, int) or not 0 <= sensor <= LARGEST_PROBE:
        problems.append(f"{path}sensor = {sensor!r} must be 0 to {LARGEST_PROBE}")
        sensor = 0
    missing = _texts(content, "missing", (), problems) if "missing" in content else None
    return ValueColumn(name, parameter, unit, sensor, missing)


def _each_once(values: tuple[ValueColumn, ...], problems: list[str]) -> None:
    seen: set[tuple[int, str]] = set()
    for value in values:
        if (value.sensor, value.parameter) in seen:
            problems.append(f"column {value.name!r}: {value.parameter} of sensor {value.sensor} is given twice")
        seen.add((value.sensor, value.parameter))


def _only(content: dict[str, Any], known: set[str], path: str, problems: list[str]) -> None:
    problems.extend(f"{path}{key} is unknown; known are {', '.join(sorted(known))}" for key in content.keys() - known)


def _text(content: dict[str, Any], key: str, default: str, problems: list[str]) -> str:
    value = content.get(key, default)
    if isinstance(value, str):
        return value
    problems.append(f"{key} = {value!r} must be a text")
    return default


def _texts(content: dict[str, Any], key: str, default: tuple[str, ...], problems: list[str]) -> tuple[str, ...]:
    value = content.get(key, list(default))
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    problems.append(f"{key} = {value!r} must be a list of texts")
    return default
