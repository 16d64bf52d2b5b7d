"""What the files of ../shared/data say, read by the plainest means: csv, Decimal and zoneinfo, none of the code under test."""

import csv
import gzip
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from tests.flows.reading_back import first_of_each_key
from water.parameter import BY_COLUMN, PARAMETERS
from water.readings import Readings, concatenate

DATA = Path(__file__).parents[2].parent / "shared" / "data"
FILES = tuple(sorted(DATA.glob("*/*.csv.gz")))
MISSING = {"", "-9999", "NA", "NaN", "NULL"}
# File column -> (ReadingColumns column, factor, further sensor), by a column that only that format has.
FORMATS: dict[str, dict[str, tuple[str, int, int]]] = {
    "waterbody": {
        "ph": ("ph", 1, 0),
        "turb": ("turbidity_ntu", 1, 0),
        "temp_c": ("temperature_c", 1, 0),
        "do_mgl": ("dissolved_oxygen_mg_l", 1, 0),
        "spcond_ms_cm": ("conductivity_us_cm", 1000, 0),
    },
    "f_turb": {
        "ph": ("ph", 1, 0),
        "turb": ("turbidity_ntu", 1, 0),
        "temp": ("temperature_c", 1, 0),
        "do_mgl": ("dissolved_oxygen_mg_l", 1, 0),
        "spcond": ("conductivity_us_cm", 1000, 0),
    },
    "turb_cor": {
        "ph": ("ph", 1, 0),
        "turb": ("turbidity_ntu", 1, 0),
        "temp": ("temperature_c", 1, 0),
        "do": ("dissolved_oxygen_mg_l", 1, 0),
        "cond": ("conductivity_us_cm", 1, 0),
    },
    "Redox": {
        "pH": ("ph", 1, 0),
        "Trueb": ("turbidity_ntu", 1, 0),
        "Tp": ("temperature_c", 1, 0),
        "Leit": ("conductivity_us_cm", 1, 0),
        "Cl": ("disinfectant_mg_l", 1, 0),
        "Redox": ("redox_mv", 1, 0),
        "Fm": ("flow_m3_h", 1, 0),
        "Cl_2": ("disinfectant_mg_l", 1, 1),
        "Fm_2": ("flow_m3_h", 1, 1),
    },
}


def truth_of(path: Path, sensor_id: int) -> Readings:
    """Every row of the file as readings, in its order, rows without any value included."""
    with gzip.open(path, "rt", newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = next(columns for mark, columns in FORMATS.items() if mark in rows[0])
    sensors = sorted({further for _, _, further in columns.values()})
    at_us = np.array([_at_us(row) for row in rows], np.int64)
    parts = []
    for further in sensors:
        values = np.full((len(PARAMETERS), len(rows)), np.nan, np.float32)
        for name, (column, factor, of_sensor) in columns.items():
            if of_sensor == further:
                values[BY_COLUMN[column].number - 1] = [_value(row[name], factor) for row in rows]
        parts.append(Readings(np.full(len(rows), sensor_id + further), at_us, values))
    return concatenate(parts)


def all_truth() -> tuple[Readings, int, int]:
    """What must be stored when all files are replayed with sensors 1, 11, 21 ..: the first of each key, by sensor and time; how
    many readings are sent in all; how many of them have no value."""
    parts = [truth_of(path, 1 + 10 * number) for number, path in enumerate(FILES)]
    whole = concatenate(parts)
    return first_of_each_key(whole), len(whole), int(np.isnan(whole.values).all(axis=0).sum())


def _value(text: str, factor: int) -> float:
    text = text.strip()
    if text in MISSING or Decimal(text) == -9999:
        return float("nan")
    return float(Decimal(text) * factor)


def _at_us(row: dict[str, str]) -> int:
    if "time_zone" in row:
        local = datetime.fromisoformat(f"{row['date']}T{row['time']}").replace(tzinfo=ZoneInfo(row["time_zone"]))
        return round(local.timestamp()) * 1_000_000
    text = row.get("datetime") or row.get("datetimestamp") or row["Time"]
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000
