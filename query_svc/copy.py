"""Readings as the bytes that PostgreSQL takes: rows of a binary COPY, and columns as binary array parameters.

Formats: PostgreSQL documentation, "COPY: Binary Format", and array_recv in src/backend/utils/adt/arrayfuncs.c. NaN becomes
NULL in a COPY; in an array it stays NaN. Times are microseconds since 2000-01-01T00:00:00Z on this wire.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

from query_svc.tables import VALUE_COLUMNS
from water.readings import Readings

COPY_COLUMNS = ", ".join(("sensor_id", "timestamp", *VALUE_COLUMNS, "flags", "region"))
EPOCH_US = 946_684_800_000_000
HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)


def copy_rows(readings: Readings, region: NDArray[np.bytes_]) -> bytes:
    """Rows, in the order given, for COPY sensor_readings (COPY_COLUMNS) FROM STDIN (FORMAT BINARY), whose input is HEADER, any
    number of rows, TRAILER. `region` has one UTF-8 text per reading; readings must have flags."""
    if readings.flags is None:
        raise ValueError("readings without flags: screen them first")
    width = max(1, region.dtype.itemsize)
    rows = np.zeros(len(readings), _row_type(width))
    lengths = np.char.str_len(region)
    absent = np.isnan(readings.values)
    rows["fields"] = len(VALUE_COLUMNS) + 4
    for name, column in (("sensor", readings.sensor_id), ("time", readings.measured_at_us - EPOCH_US), ("flags", readings.flags)):
        rows[name + "_length"] = 8
        rows[name] = column
    for number, (column, gone) in enumerate(zip(readings.values, absent, strict=True)):
        rows[f"value{number}_length"] = np.where(gone, -1, 4)
        rows[f"value{number}"] = column
    rows["region_length"] = lengths
    rows["region"] = region
    return _without_gaps(rows, absent, lengths, width)


def _row_type(region_width: int) -> np.dtype[np.void]:
    """A row with every value present and the longest region."""
    fields: list[tuple[str, str]] = [("fields", ">i2"), ("sensor_length", ">i4"), ("sensor", ">i8")]
    fields += [("time_length", ">i4"), ("time", ">i8")]
    for number in range(len(VALUE_COLUMNS)):
        fields += [(f"value{number}_length", ">i4"), (f"value{number}", ">f4")]
    fields += [("flags_length", ">i4"), ("flags", ">u8"), ("region_length", ">i4"), ("region", f"S{region_width}")]
    return np.dtype(fields)


def _without_gaps(rows: NDArray[np.void], absent: NDArray[np.bool_], lengths: NDArray[np.int64], region_width: int) -> bytes:
    """The rows without the bytes of absent values and behind short regions."""
    if not absent.any() and (lengths == region_width).all():
        return rows.tobytes()
    matrix = rows.view(np.uint8).reshape(len(rows), -1)
    keep = np.ones(matrix.shape, np.bool_)
    for number, gone in enumerate(absent):
        if gone.any():
            start = _offset_of(rows, f"value{number}")
            keep[:, start : start + 4] = ~gone[:, None]
    start = _offset_of(rows, "region")
    keep[:, start:] = np.arange(region_width) < lengths[:, None]
    return matrix[keep].tobytes()


def _offset_of(rows: NDArray[np.void], name: str) -> int:
    assert rows.dtype.fields is not None
    return int(rows.dtype.fields[name][1])


class Bigints:
    """A bigint[] parameter."""

    def __init__(self, column: NDArray[Any]) -> None:
        self.content = _array(column, 20, ">i8")


class Moments:
    """A timestamptz[] parameter, from microseconds since 1970."""

    def __init__(self, at_us: NDArray[np.int64]) -> None:
        self.content = _array(at_us - EPOCH_US, 1184, ">i8")


class Reals:
    """A real[] parameter."""

    def __init__(self, column: NDArray[np.float32]) -> None:
        self.content = _array(column, 700, ">f4")


def register(adapters: AdaptersMap) -> None:
    """Makes the three usable as parameters of this connection or cursor."""
    adapters.register_dumper(Bigints, _BigintsDumper)
    adapters.register_dumper(Moments, _MomentsDumper)
    adapters.register_dumper(Reals, _RealsDumper)


def _array(column: NDArray[Any], type_oid: int, wire: str) -> bytes:
    elements = np.empty(len(column), [("length", ">i4"), ("value", wire)])
    elements["length"] = np.dtype(wire).itemsize
    elements["value"] = column
    return struct.pack(">iiiii", 1, 0, type_oid, len(column), 1) + elements.tobytes()


class _ContentDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        return bytes(obj.content)


class _BigintsDumper(_ContentDumper):
    oid = 1016


class _MomentsDumper(_ContentDumper):
    oid = 1185


class _RealsDumper(_ContentDumper):
    oid = 1021
