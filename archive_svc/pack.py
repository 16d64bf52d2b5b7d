"""What are the bytes of an archive object: readings of one region and one partition of the log as Parquet that any tool reads?"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mesh.errors import InvalidArgument
from water.parameter import PARAMETERS
from water.readings import Readings

MOST_READINGS = 2_000_000
"""Readings that one object may have: a chunk and one delivery at most, and no more is taken into memory from a strange one."""
MOST_UNPACKED_BYTES = 512 * 1024 * 1024

_VALUES = tuple(parameter.sql_column for parameter in PARAMETERS)
_SAMPLE = 4096
_SCATTERED = 0.9  # of the sample different: a dictionary would be as long as the column
_COMPRESSION_LEVEL = 1


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where each reading stands in the log: all in one partition of one topic; `offset` (int64) is its record's, `index` (int32)
    its place within that record."""

    topic: str
    partition: int
    offset: NDArray[np.int64]
    index: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Unpacked:
    """What an object holds, in its order: by sensor, measured time, place in the log. The readings have flags."""

    readings: Readings
    region: str
    places: Places
    log_id: str


def pack(readings: Readings, region: str, places: Places, log_id: str) -> bytes:
    """The object of these readings (one at least, with flags), sorted by sensor, measured time and place. The same input gives
    the same bytes, with the same pyarrow. Columns are the public ones of sensor_readings, and those that name the place are
    called as in conflicting_readings. About 6 bytes a reading for values on their grid. Blocks: run it in a thread."""
    if readings.flags is None or not len(readings):
        raise ValueError("an object has readings, and they have flags: screen them first")
    order = np.lexsort((places.index, places.offset, readings.measured_at_us, readings.sensor_id))
    readings = readings.take(order)
    assert readings.flags is not None
    count = len(readings)
    columns = [
        pa.array(readings.sensor_id),
        pa.array(readings.measured_at_us.view("datetime64[us]")).cast(_SCHEMA.field("timestamp").type),
        *(pa.array(column, mask=np.isnan(column)) for column in readings.values),
        pa.array(readings.flags.view(np.int64)),
        _constant(region, count),
        _constant(log_id, count),
        _constant(places.topic, count),
        pa.array(np.full(count, places.partition, np.int32)),
        pa.array(places.offset[order]),
        pa.array(places.index[order]),
    ]
    table = pa.Table.from_arrays(columns, schema=_SCHEMA)
    scattered = {name for name, column in zip(_VALUES, readings.values, strict=True) if _is_scattered(column)}
    target = io.BytesIO()
    pq.write_table(
        table,
        target,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        use_dictionary=[name for name in _SCHEMA.names if name not in _DELTA and name not in scattered],
        column_encoding={**dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"), **dict.fromkeys(scattered, "BYTE_STREAM_SPLIT")},
        row_group_size=MOST_READINGS,
        store_schema=False,
    )
    return target.getvalue()


def unpack(content: bytes) -> Unpacked:
    """The inverse of `pack`, and of an object by a later version that has more columns. Raises InvalidArgument
    (UNREADABLE_OBJECT) for anything else, and for more readings than an object may have. Blocks: run it in a thread."""
    try:
        # Texts stay dictionaries: 100 kB of a strange file may say one of 200,000 characters two million times.
        with pq.ParquetFile(pa.BufferReader(content), read_dictionary=_TEXTS) as file:
            _check_size(file.metadata)
            table = file.read(columns=_SCHEMA.names, use_threads=False)
        table = table.select(_SCHEMA.names).cast(_ANY).unify_dictionaries().combine_chunks()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unreadable(str(error)) from error
    for name in (name for name in _SCHEMA.names if name not in _VALUES):
        if table[name].null_count:
            raise _unreadable(f"the column {name} has gaps")
    numbers = {name: table[name].to_numpy() for name in (*_NUMBERS, *_VALUES)}
    readings = Readings(
        np.ascontiguousarray(numbers["sensor_id"], np.int64),
        table["timestamp"].cast(pa.int64()).to_numpy().astype(np.int64),
        np.array([numbers[name] for name in _VALUES], np.float32),
        np.ascontiguousarray(numbers["flags"], np.int64).view(np.uint64),
    )
    region, log_id, topic = (_only(table, name) for name in _TEXTS)
    partition = int(_only(table, "partition"))
    places = Places(topic, partition, numbers["offset"].astype(np.int64), numbers["index"].astype(np.int32))
    return Unpacked(readings, region, places, log_id)


def _constant(value: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), _alone(value))


@lru_cache(64)
def _alone(value: str) -> pa.Array:
    """Kept: pyarrow looks for pandas on the disk whenever it takes a list, a third of the time that a small object needs."""
    return pa.array([value], pa.string())


def _is_scattered(column: NDArray[np.float32]) -> bool:
    """Whether nearly all values differ, so that their bytes one kind at a time are shorter than a dictionary of them. What is
    short costs more to look at than it may save."""
    if len(column) < _SAMPLE // 4:
        return False
    sample = column[:: max(1, len(column) // _SAMPLE)]
    sample = sample[~np.isnan(sample)]
    return len(np.unique(sample)) > _SCATTERED * len(sample)


def _check_size(metadata: pq.FileMetaData) -> None:
    """What a file says of itself before anything of it is unpacked."""
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if not 0 < metadata.num_rows <= MOST_READINGS or size > MOST_UNPACKED_BYTES:
        raise _unreadable(f"{metadata.num_rows} readings, {size} bytes unpacked: 1 to {MOST_READINGS:,} were expected")


def _only(table: pa.Table, name: str) -> str:
    values = table[name].unique().to_pylist()
    if len(values) != 1:
        raise _unreadable(f"the column {name} has {len(values)} different values, not one")
    return str(values[0])


def _unreadable(problem: str) -> InvalidArgument:
    return InvalidArgument(f"no object of this archive: {problem[:300]}", reason="UNREADABLE_OBJECT")


_DELTA = ("sensor_id", "timestamp", "offset", "index")
_NUMBERS = ("sensor_id", "flags", "offset", "index")
_TEXTS = ("region", "log_id", "topic")
_TEXT = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    [
        pa.field("sensor_id", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        *(pa.field(name, pa.float32()) for name in _VALUES),
        pa.field("flags", pa.int64(), nullable=False),
        *(pa.field(name, _TEXT, nullable=False) for name in _TEXTS),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
    ]
)
_ANY = pa.schema([field.with_nullable(True) for field in _SCHEMA])
