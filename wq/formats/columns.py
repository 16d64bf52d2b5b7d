"""How rows of texts become readings: columns of times, sensors and values, and which rows cannot be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidArgument
from water.parameter import BY_COLUMN, PARAMETERS
from water.readings import Readings, empty
from wq.formats.column_map import ColumnMap
from wq.formats.numbers import NO_ID, SensorIds, Values
from wq.formats.times import read_times
from wq.formats.units import unit_of
from wq.formats.unreadable import SHOWN, UnreadableRow
from wq.formats.zones import SKIPPED, TWICE, is_doubled, to_utc, zone_of

_Describe = Callable[[int], str]


class Piece(NamedTuple):
    """The readings of some rows; `unreadable` has the first ten of those that gave none."""

    readings: Readings
    rows: int
    unreadable_count: int
    unreadable: list[UnreadableRow]


@dataclass(frozen=True, slots=True)
class _Column:
    index: int
    probe: int
    parameter: int
    values: Values


class Columns:
    """What each column of one file is. Converts rows without looking at other pieces."""

    def __init__(self, header: list[str], column_map: ColumnMap, first_sensor_id: int) -> None:
        self._width = len(header)
        self._time = tuple(header.index(name) for name in column_map.time.columns)
        self._format = column_map.time.format
        self._zone = zone_of(column_map.time.zone)
        self._zone_column = header.index(column_map.time.zone_column) if column_map.time.zone_column else None
        self._sensor_column = header.index(column_map.sensor_id) if column_map.sensor_id else None
        self._ids = SensorIds()
        present = [value for value in column_map.values if value.name in header]
        self._probes = sorted({value.sensor for value in present})
        self._first_sensor_id = first_sensor_id
        self._columns = [
            _Column(
                header.index(value.name),
                self._probes.index(value.sensor),
                BY_COLUMN[value.parameter].number - 1,
                Values(
                    unit_of(value.parameter, value.unit),
                    column_map.missing if value.missing is None else value.missing,
                    column_map.decimal_comma,
                ),
            )
            for value in present
        ]
        self._header = header

    @property
    def sensor_ids(self) -> tuple[int, ...]:
        """The station's sensors; empty where a column names them."""
        return tuple(self._first_sensor_id + probe for probe in self._probes) if self._sensor_column is None else ()

    def whole(self, rows: list[list[str]]) -> int:
        """How many of the rows can be converted before the next ones are known: rows at the end, in an hour that the clock has
        twice, wait for the rows after them."""
        if not rows or not self._doubled(rows[-1:])[0]:
            return len(rows)
        calm = np.flatnonzero(~self._doubled(rows))
        return int(calm[-1]) + 1 if len(calm) else 0

    def convert(self, rows: list[list[str]], lines: Sequence[int]) -> Piece:
        """The readings of the rows, row by row and within a row probe by probe. Blank rows are no rows."""
        good = [row for row in rows if len(row) == self._width]
        checks = _Checks(
            lines if len(good) == len(rows) else [n for n, row in zip(lines, rows, strict=True) if len(row) == self._width]
        )
        blank = 0
        if len(good) != len(rows):
            odd = [(n, len(row)) for n, row in zip(lines, rows, strict=True) if row and len(row) != self._width]
            blank = len(rows) - len(good) - len(odd)
            checks.found = [UnreadableRow(n, f"{width} fields, the header has {self._width}") for n, width in odd[:SHOWN]]
            checks.count = len(odd)
        if not good:
            return Piece(empty(), len(rows) - blank, checks.count, checks.found)
        readings = self._readings(good, checks)
        return Piece(readings, len(rows) - blank, checks.count, checks.found)

    def _readings(self, rows: list[list[str]], checks: "_Checks") -> Readings:
        sensor_id = self._sensors(rows, checks)
        measured_at_us = self._times(rows, sensor_id, checks)
        values = np.full((len(PARAMETERS), len(rows), len(self._probes)), np.nan, np.float32)
        for column in self._columns:
            texts = list(map(itemgetter(column.index), rows))
            numbers = column.values.column(texts)
            name = self._header[column.index]
            checks.fail(np.isinf(numbers), lambda row, texts=texts, name=name: f"{name}: {texts[row][:40]!r} is no number")  # type: ignore[misc]
            values[column.parameter, :, column.probe] = numbers
        probes = len(self._probes)
        readings = Readings(
            (sensor_id[:, None] + np.array(self._probes, np.int64)[None, :]).ravel(),
            np.repeat(measured_at_us, probes),
            values.reshape(len(PARAMETERS), -1),
        )
        return readings.take(np.repeat(~checks.failed, probes)) if checks.failed.any() else readings

    def _sensors(self, rows: list[list[str]], checks: "_Checks") -> NDArray[np.int64]:
        if self._sensor_column is None:
            return np.full(len(rows), self._first_sensor_id, np.int64)
        texts = [row[self._sensor_column] for row in rows]
        sensor_id = self._ids.column(texts)
        checks.fail(sensor_id == NO_ID, lambda row: f"{texts[row][:40]!r} is no sensor id: a whole number")
        return sensor_id

    def _times(self, rows: list[list[str]], sensor_id: NDArray[np.int64], checks: "_Checks") -> NDArray[np.int64]:
        texts = self._time_texts(rows)
        times = read_times(texts, self._format)
        checks.fail(~times.readable, lambda row: f"{texts[row][:60]!r} is no time of the form {self._format!r}")
        result = times.us.copy()
        for zone, selected in self._zones(rows, checks):
            local = np.flatnonzero(selected & ~times.absolute & times.readable)
            result[local], problem = to_utc(times.us[local], sensor_id[local], zone)
            fate = np.zeros(len(rows), np.uint8)
            fate[local] = problem
            checks.fail(fate == SKIPPED, lambda row, zone=zone: f"{texts[row]!r} never was: the clock of {zone} skipped it")  # type: ignore[misc]
            checks.fail(
                fate == TWICE,
                lambda row, zone=zone: f"{texts[row]!r} was twice by the clock of {zone}, and the rows do not say which is meant",  # type: ignore[misc]
            )
        return result

    def _zones(self, rows: list[list[str]], checks: "_Checks") -> list[tuple[tzinfo, NDArray[np.bool_]]]:
        """Each zone, and which rows are in it."""
        if self._zone_column is None:
            return [(self._zone, np.ones(len(rows), bool))]
        texts = [row[self._zone_column].strip() for row in rows]
        zones: list[tuple[tzinfo, NDArray[np.bool_]]] = []
        names = np.array(texts)
        for name in set(texts):
            try:
                zones.append((zone_of(name), names == name))
            except InvalidArgument as error:
                checks.fail(names == name, lambda row, problem=error.message: problem)  # type: ignore[misc]
        return zones

    def _time_texts(self, rows: list[list[str]]) -> list[str]:
        if len(self._time) == 1:
            return [row[self._time[0]] for row in rows]
        return [" ".join(texts) for texts in map(itemgetter(*self._time), rows)]

    def _doubled(self, rows: list[list[str]]) -> NDArray[np.bool_]:
        """Which rows stand in an hour that their clock has twice."""
        doubled = np.zeros(len(rows), bool)
        good = np.array([len(row) == self._width for row in rows], bool)
        whole = [row for row in rows if len(row) == self._width]
        times = read_times(self._time_texts(whole), self._format)
        inside = np.zeros(len(whole), bool)
        for zone, selected in self._zones(whole, _Checks(range(len(whole)))):
            local = np.flatnonzero(selected & times.readable & ~times.absolute)
            inside[local] = is_doubled(times.us[local], zone)
        doubled[good] = inside
        return doubled


class _Checks:
    """Which rows of a piece have failed, and the first problems."""

    def __init__(self, lines: Sequence[int]) -> None:
        self._lines = lines
        self.failed = np.zeros(len(lines), bool)
        self.count = 0
        self.found: list[UnreadableRow] = []

    def fail(self, rows: NDArray[np.bool_], describe: _Describe) -> None:
        """Counts rows that have not failed before; the first ten are described."""
        new = np.flatnonzero(rows & ~self.failed)
        if len(new):
            self.failed |= rows
            self.count += len(new)
            self.found.extend(UnreadableRow(self._lines[row], describe(int(row))) for row in new[:SHOWN])
