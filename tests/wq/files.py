"""Small made-up files of measurements, and what StationFile reads of them."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from water.parameter import BY_COLUMN
from water.readings import Readings, concatenate
from wq.formats.column_map import ColumnMap, TimeColumns, ValueColumn
from wq.formats.station import StationFile
from wq.formats.unreadable import UnreadableRow

EPA_HEADER = "waterbody,date,time,time_zone,ph,turb,temp_c,do_mgl,spcond_ms_cm"
EPA_ZONE = "America/New_York"
PH_ONLY = ColumnMap(title="test map", time=TimeColumns(("time",), zone="America/New_York"), values=(ValueColumn("pH", "ph", ""),))


@dataclass(frozen=True, slots=True)
class Read:
    """Everything that a file gave."""

    readings: Readings
    rows: int
    unreadable_count: int
    unreadable: list[UnreadableRow]
    problem: str
    unknown_columns: tuple[str, ...]

    def values(self, column: str) -> list[float]:
        """Values of a parameter as Python floats."""
        return [float(value) for value in self.readings.values[BY_COLUMN[column].number - 1]]

    @property
    def times(self) -> list[str]:
        """Measured times, ISO without zone, in UTC."""
        return [
            datetime.fromtimestamp(int(us) / 1e6, UTC).replace(tzinfo=None).isoformat(" ") for us in self.readings.measured_at_us
        ]

    @property
    def lines(self) -> list[int]:
        """Line numbers of the unreadable rows."""
        return [line for line, _ in self.unreadable]


def read_file(path: Path, column_map: ColumnMap | None = None, sensor_id: int = 1) -> Read:
    """Reads all of it."""
    with StationFile(path, column_map, sensor_id) as file:
        parts = list(file.readings())
        assert all(part.values.dtype == np.float32 for part in parts)
        readings = concatenate(parts)
        assert file.readings_count == len(readings)
        unreadable = file.unreadable
        return Read(readings, file.rows, unreadable.count, unreadable.first, file.problem, file.unknown_columns)


def write_file(folder: Path, lines: Sequence[str], name: str = "station.csv", end: str = "\n") -> Path:
    """A file of these lines; gzipped when the name says so."""
    content = "".join(line + end for line in lines).encode()
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def ph_file(folder: Path, *rows: str, zone: str = EPA_ZONE) -> Path:
    """An EPA buoy whose rows are "date time ph"."""
    lines = [EPA_HEADER]
    for row in rows:
        date, time, ph = row.split()
        lines.append(f"pond,{date},{time},{zone},{ph},1,20,9,0.4")
    return write_file(folder, lines)
