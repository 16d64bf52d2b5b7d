"""The files of ../shared/data, value by value against a reading of them that shares no code with ours."""

import csv
import gzip
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.wq.files import read_file
from water.parameter import PARAMETERS
from wq.formats.station import StationFile

DATA = Path(__file__).parents[3] / "shared" / "data"
ABSENT = ("", "-9999")
Row = dict[str, str]
# column in the file, factor to the canonical unit; in the order of PARAMETERS
Spec = list[tuple[str, int] | None]
EPA: Spec = [("ph", 1), ("turb", 1), ("temp_c", 1), ("do_mgl", 1), ("spcond_ms_cm", 1000), None, None, None]
NERRS: Spec = [("ph", 1), ("turb", 1), ("temp", 1), ("do_mgl", 1), ("spcond", 1000), None, None, None]
LOGAN: Spec = [("ph", 1), ("turb", 1), ("temp", 1), ("do", 1), ("cond", 1), None, None, None]
GECCO: Spec = [("pH", 1), ("Trueb", 1), ("Tp", 1), None, ("Leit", 1), ("Cl", 1), ("Redox", 1), ("Fm", 1)]
GECCO_2: Spec = [None, None, None, None, None, ("Cl_2", 1), None, ("Fm_2", 1)]


def _epa_time(row: Row) -> datetime:
    local = datetime.strptime(f"{row['date']} {row['time']}", "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the zone follows
    return local.replace(tzinfo=ZoneInfo(row["time_zone"]))


def _utc(column: str) -> Callable[[Row], datetime]:
    return lambda row: datetime.fromisoformat(row[column]).replace(tzinfo=UTC)


FILES: list[tuple[str, Callable[[Row], datetime], list[Spec]]] = [
    ("epa_buoys/archer_2024", _epa_time, [EPA]),
    ("epa_buoys/mashapaug_2025", _epa_time, [EPA]),
    ("nerrs/cat_point_2012_2013", _utc("datetimestamp"), [NERRS]),
    ("logan_river/BlackSmithFork2015", _utc("datetime"), [LOGAN]),
    ("logan_river/FranklinBasin2014", _utc("datetime"), [LOGAN]),
    ("logan_river/FranklinBasin2020", _utc("datetime"), [LOGAN]),
    ("logan_river/MainStreet2019", _utc("datetime"), [LOGAN]),
    ("logan_river/TonyGrove2014", _utc("datetime"), [LOGAN]),
    ("gecco/gecco2017_train", _utc("Time"), [GECCO, GECCO_2]),
    ("gecco/gecco2018_train", _utc("Time"), [GECCO, GECCO_2]),
]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _rows(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


def _expected(row: Row, spec: Spec) -> list[float]:
    """Canonical values by exact decimal arithmetic."""
    texts = [(row[column[0]], column[1]) if column else ("", 1) for column in spec]
    return [float("nan") if text in ABSENT else float(Decimal(text) * factor) for text, factor in texts]


@pytest.mark.parametrize(("name", "time", "specs"), FILES, ids=[name for name, _, _ in FILES])
def test_every_value_of_a_real_file_is_the_files_own(name: str, time: Callable[[Row], datetime], specs: list[Spec]) -> None:
    path = DATA / f"{name}.csv.gz"
    rows = list(_rows(path))
    found = read_file(path, sensor_id=40)
    assert found.rows == len(rows)
    assert (found.unreadable_count, found.problem, found.unknown_columns) == (0, "", ())
    assert len(found.readings) == len(rows) * len(specs)
    times = np.array([(time(row) - EPOCH) // timedelta(microseconds=1) for row in rows], np.int64)
    for probe, spec in enumerate(specs):
        mine = found.readings.take(found.readings.sensor_id == 40 + probe)
        np.testing.assert_array_equal(mine.measured_at_us, times)
        expected = np.array([_expected(row, spec) for row in rows]).T.astype(np.float32)
        for parameter, row_of_values, wanted in zip(PARAMETERS, mine.values, expected, strict=True):
            np.testing.assert_array_equal(row_of_values, wanted, err_msg=parameter.column)


@pytest.mark.parametrize(("name", "_time", "specs"), FILES, ids=[name for name, _, _ in FILES])
def test_a_known_file_names_its_sensors_and_leaves_no_column_in_doubt(name: str, _time: object, specs: list[Spec]) -> None:
    with StationFile(DATA / f"{name}.csv.gz", None, 7) as file:
        assert file.sensor_ids == tuple(7 + probe for probe in range(len(specs)))
        assert file.unknown_columns == file.absent_columns == ()


def test_both_probes_of_a_row_follow_each_other() -> None:
    found = read_file(DATA / "gecco" / "gecco2018_train.csv.gz", sensor_id=5)
    assert found.readings.sensor_id[:4].tolist() == [5, 6, 5, 6]
    assert (np.diff(found.readings.measured_at_us) >= 0).all()
