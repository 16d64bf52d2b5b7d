"""One file as the readings of one station: opened, its header understood, read piece by piece."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from mesh.errors import InvalidArgument
from water.readings import Readings
from wq.formats.column_map import ColumnMap
from wq.formats.columns import Columns
from wq.formats.known import KNOWN, recognise
from wq.formats.table import Broken, Rows, Table
from wq.formats.unreadable import Unreadable, UnreadableRow

ROWS_AT_ONCE = 8192
_HELD_AT_MOST = 8 * ROWS_AT_ONCE
_DELIMITERS = (",", ";", "\t")


class StationFile:
    """A file of measurements, open. Everything that is wrong with the file as a whole is raised (NotFound, InvalidArgument) by
    the constructor; what is wrong with a row is counted; what ends the file early is in `problem` when `readings` is done.

    `first_sensor_id` is the sensor of the rows, the next ones are its further probes; a column of sensor ids in the map goes
    before it. Memory is bounded, whatever the size of the file.
    """

    def __init__(self, path: Path, column_map: ColumnMap | None, first_sensor_id: int) -> None:
        self.path = path
        self._table = Table(path)
        try:
            delimiter, self.map = _understand(self._table, column_map)
            header = self._table.header(delimiter)
            self.absent_columns = tuple(value.name for value in self.map.values if value.name not in header)
            self.unknown_columns = tuple(name for name in header if name and name not in self.map.known)
            self._columns = Columns(header, self.map, first_sensor_id)
        except BaseException:
            self._table.__exit__(None, None, None)
            raise
        self._table.start(delimiter)
        self.rows = 0
        self.readings_count = 0
        self.unreadable = Unreadable()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._table.__exit__(kind, error, trace)

    @property
    def problem(self) -> str:
        """Why the file could not be read to its end; empty: it was, or is still being read."""
        return self._table.problem

    @property
    def size_bytes(self) -> int:
        """Size of the file as it lies on the disk."""
        return self._table.size_bytes

    @property
    def read_bytes(self) -> int:
        """How much of it has been read."""
        return self._table.read_bytes

    @property
    def sensor_ids(self) -> tuple[int, ...]:
        """The sensors of the station; empty where a column names them."""
        return self._columns.sensor_ids

    def readings(self) -> Iterator[Readings]:
        """All readings, in the order of the rows, a piece at a time. Once."""
        held = Rows([], [], None)
        while True:
            rows, lines, broken = self._table.read(ROWS_AT_ONCE)
            is_last = not rows and broken is None
            self._note_broken(broken)
            rows, lines = [*held.rows, *rows], [*held.lines, *lines]
            whole = len(rows) if is_last or len(rows) > _HELD_AT_MOST else self._columns.whole(rows)
            held = Rows(rows[whole:], lines[whole:], None)
            piece = self._columns.convert(rows[:whole], lines[:whole])
            self.rows += piece.rows
            self.unreadable.add(piece.unreadable, piece.unreadable_count)
            if len(piece.readings):
                self.readings_count += len(piece.readings)
                yield piece.readings
            if is_last or (self.problem and not held.rows):
                return

    def _note_broken(self, broken: Broken | None) -> None:
        if broken is not None:
            self.rows += broken.count
            last = broken.line + broken.count - 1
            span = f" (up to line {last})" if last > broken.line else ""
            self.unreadable.add([UnreadableRow(broken.line, broken.problem + span)], broken.count)


def _understand(table: Table, column_map: ColumnMap | None) -> tuple[str, ColumnMap]:
    """The delimiter and the map, or what was found instead."""
    if column_map is not None:
        candidates = (column_map.delimiter,) if column_map.delimiter else _DELIMITERS
        best = max(candidates, key=lambda each: len(column_map.needed & set(table.header(each))))
        header = table.header(best)
        if absent := sorted(column_map.needed - set(header)):
            raise InvalidArgument(
                f"{table.path}: the header lacks {_listed(absent)}, which {column_map.title} names; it has {_listed(header)}",
                reason="UNKNOWN_COLUMNS",
            )
        return best, _without_doubles(table, header, column_map)
    for delimiter in _DELIMITERS:
        header = table.header(delimiter)
        known = recognise(header)
        if known is not None:
            return delimiter, _without_doubles(table, header, known)
    header = max((table.header(delimiter) for delimiter in _DELIMITERS), key=len)
    raise InvalidArgument(
        f"{table.path}: unknown format. Its header has {_listed(header)}. Known are: "
        + ", ".join(known.title for known in KNOWN)
        + ". For any other file say with --columns MAP.toml what the columns mean; `wq replay --help` shows how",
        reason="UNKNOWN_FORMAT",
    )


def _without_doubles(table: Table, header: list[str], column_map: ColumnMap) -> ColumnMap:
    used = {value.name for value in column_map.values} | column_map.needed
    if doubled := sorted({name for name in header if header.count(name) > 1} & used):
        raise InvalidArgument(f"{table.path}: the header has {_listed(doubled)} more than once", reason="UNKNOWN_COLUMNS")
    if not any(value.name in header for value in column_map.values):
        raise InvalidArgument(
            f"{table.path}: none of the columns {_listed([value.name for value in column_map.values])} is there"
        )
    return column_map


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "") if names else "no columns"
