"""The measured files of ../shared/data as readings in canonical units, for tests that need water as it is."""

import csv
import gzip
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from water.parameter import BY_COLUMN, PARAMETERS
from water.readings import Readings

DATA = Path(__file__).parents[2] / "../shared/data"
# Column of the file -> parameter's column, and what one unit of the file is in the canonical one.
_COLUMNS: dict[str, dict[str, tuple[str, float]]] = {
    "epa_buoys": {
        "ph": ("ph", 1),
        "turb": ("turbidity_ntu", 1),
        "do_mgl": ("dissolved_oxygen_mg_l", 1),
        "temp_c": ("temperature_c", 1),
        "spcond_ms_cm": ("conductivity_us_cm", 1000),
    },
    "nerrs": {
        "ph": ("ph", 1),
        "turb": ("turbidity_ntu", 1),
        "do_mgl": ("dissolved_oxygen_mg_l", 1),
        "temp": ("temperature_c", 1),
        "spcond": ("conductivity_us_cm", 1000),
    },
    "logan_river": {
        "ph": ("ph", 1),
        "turb": ("turbidity_ntu", 1),
        "do": ("dissolved_oxygen_mg_l", 1),
        "temp": ("temperature_c", 1),
        "cond": ("conductivity_us_cm", 1),
    },
    "gecco": {
        "pH": ("ph", 1),
        "Tp": ("temperature_c", 1),
        "Cl": ("disinfectant_mg_l", 1),
        "Redox": ("redox_mv", 1),
        "Leit": ("conductivity_us_cm", 1),
        "Trueb": ("turbidity_ntu", 1),
        "Fm": ("flow_m3_h", 1),
    },
}


def station_files() -> list[Path]:
    """Every measured file, in the order of names."""
    return sorted(DATA.glob("*/*.csv.gz"))


@cache
def station(path: Path) -> Readings:
    """The file's readings as sensor 1, in the file's order. Sentinels stay as they are; empty cells are NaN."""
    columns = _COLUMNS[path.parent.name]
    times: list[int] = []
    values: list[list[float]] = []
    for row in _rows(path):
        times.append(_time_us(row))
        values.append([_number(row[name]) * scale for name, (_, scale) in columns.items()])
    table = np.full((len(PARAMETERS), len(times)), np.nan, np.float32)
    table[[BY_COLUMN[name].number - 1 for name, _ in columns.values()]] = np.array(values, np.float64).T
    return Readings(np.ones(len(times), np.int64), np.array(times, np.int64), table)


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _time_us(row: Mapping[str, str]) -> int:
    text = next(row[name] for name in ("Time", "datetime", "datetimestamp") if name in row) if "date" not in row else ""
    zone: tzinfo = UTC
    if not text:
        text, zone = f"{row['date']} {row['time']}", ZoneInfo(row["time_zone"])
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1_000_000)


def _number(text: str) -> float:
    return float(text) if text not in ("", "NA", "NULL", "NaN") else float("nan")
