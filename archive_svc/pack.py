"""What are the bytes of an archive object in Parquet: readings of one region that any tool reads?"""

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from archive_svc.unpacked import Places, Unpacked, join, unreadable
from mesh.ports import Partition
from water.parameter import PARAMETERS
from water.readings import Readings

MOST_READINGS = 2_000_000
"""Readings of a row group: a chunk and one delivery at most, and no more is taken into memory from a strange one."""
MOST_UNPACKED_BYTES = 512 * 1024 * 1024
MOST_TOPICS = 16

_VALUES = tuple(parameter.sql_column for parameter in PARAMETERS)
_SAMPLE = 4096
_SCATTERED = 0.9  # of the sample different: a dictionary would be as long as the column
_COMPRESSION_LEVEL = 1


def pack(readings: Readings, region: str, places: Places, log_id: str) -> bytes:
    """The object of these readings (one at least, with flags), sorted by sensor, measured time and place. The same input gives
    the same bytes, with the same pyarrow. Columns are the public ones of sensor_readings, and those that name the place are
    called as in conflicting_readings. About 6 bytes a reading for values on their grid. Blocks: run it in a thread."""
    target = io.BytesIO()
    with ParquetPieces(target) as pieces:
        pieces.write(Unpacked(readings, region, places, log_id).in_order())
    return target.getvalue()


class ParquetPieces:
    """A file of readings, piece by piece: each is a row group, in the order in which it comes. Write one at least."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._writer: pq.ParquetWriter | None = None

    def write(self, piece: Unpacked) -> None:
        """Readings (one at least, with flags) of the same region and log as those before."""
        readings, places = piece.readings, piece.places
        if readings.flags is None or not len(readings):
            raise ValueError("an object has readings, and they have flags: screen them first")
        count = len(readings)
        topics = [topic for topic, _ in places.partitions]
        numbers = np.array([number for _, number in places.partitions], np.int32)
        columns = [
            pa.array(readings.sensor_id),
            pa.array(readings.measured_at_us.view("datetime64[us]")).cast(_SCHEMA.field("timestamp").type),
            *(pa.array(column, mask=np.isnan(column)) for column in readings.values),
            pa.array(readings.flags.view(np.int64)),
            _constant(piece.region, count),
            _constant(piece.log_id, count),
            _texts(topics, places.of) if len(topics) > 1 else _constant(topics[0], count),
            pa.array(numbers[places.of]),
            pa.array(places.offset),
            pa.array(places.index),
        ]
        if self._writer is None:
            self._writer = _open(self._target, readings)
        self._writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), row_group_size=MOST_READINGS)

    def close(self) -> None:
        """The file is whole on return."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(target: BinaryIO, readings: Readings) -> pq.ParquetWriter:
    """How values are written is decided by the first of them."""
    scattered = {name for name, column in zip(_VALUES, readings.values, strict=True) if _is_scattered(column)}
    return pq.ParquetWriter(
        target,
        _SCHEMA,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        use_dictionary=[name for name in _SCHEMA.names if name not in _DELTA and name not in scattered],
        column_encoding={**dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"), **dict.fromkeys(scattered, "BYTE_STREAM_SPLIT")},
        store_schema=False,
    )


def pieces_of(source: bytes | Path) -> Iterator[Unpacked]:
    """The inverse of ParquetPieces, a row group at a time, and of an object by a later version that has more columns. Raises
    InvalidArgument (UNREADABLE_OBJECT) for anything else, and for more readings than a piece may have. Blocks: run each step in
    a thread."""
    try:
        # Texts stay dictionaries: 100 kB of a strange file may say one of 200,000 characters two million times.
        opened = pa.BufferReader(source) if isinstance(source, bytes) else source
        with pq.ParquetFile(opened, read_dictionary=_TEXTS) as file:
            _check_size(file.metadata)
            for number in range(file.metadata.num_row_groups):
                yield _unpacked(file.read_row_group(number, columns=_SCHEMA.names, use_threads=False))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise unreadable(str(error)) from error


def unpack(content: bytes) -> Unpacked:
    """All that an object in Parquet holds. For what has few readings. Raises as `pieces_of`. Blocks: run it in a thread."""
    return join(list(pieces_of(content)))


def _unpacked(table: pa.Table) -> Unpacked:
    table = table.select(_SCHEMA.names).cast(_ANY).unify_dictionaries().combine_chunks()
    for name in (name for name in _SCHEMA.names if name not in _VALUES):
        if table[name].null_count:
            raise ValueError(f"the column {name} has gaps")
    numbers = {name: table[name].to_numpy() for name in (*_NUMBERS, *_VALUES)}
    readings = Readings(
        np.ascontiguousarray(numbers["sensor_id"], np.int64),
        table["timestamp"].cast(pa.int64()).to_numpy().astype(np.int64),
        np.array([numbers[name] for name in _VALUES], np.float32),
        np.ascontiguousarray(numbers["flags"], np.int64).view(np.uint64),
    )
    partitions, of = _partitions(table)
    places = Places(partitions, of, numbers["offset"].astype(np.int64), numbers["index"].astype(np.int32))
    return Unpacked(readings, _only(table, "region"), places, _only(table, "log_id"))


def _partitions(table: pa.Table) -> tuple[tuple[Partition, ...], NDArray[np.int32]]:
    """Which partitions there are, and the place among them of each reading's own."""
    topic = table["topic"].chunk(0)
    if len(topic.dictionary) > MOST_TOPICS:
        raise ValueError(f"{len(topic.dictionary)} topics, {MOST_TOPICS} at most")
    both = topic.indices.to_numpy().astype(np.int64) << 32 | table["partition"].to_numpy().astype(np.int64)
    found, of = np.unique(both, return_inverse=True)
    names = topic.dictionary.to_pylist()
    return tuple(Partition(names[one >> 32], one & 0xFFFFFFFF) for one in found.tolist()), of.astype(np.int32)


def _constant(value: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), _alone(value))


def _texts(values: Sequence[str], of: NDArray[np.int32]) -> pa.DictionaryArray:
    distinct = sorted(set(values))
    code = np.array([distinct.index(value) for value in values], np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(code[of]), pa.array(distinct, pa.string()))


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
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows, size = (max((getattr(group, name) for group in groups), default=0) for name in ("num_rows", "total_byte_size"))
    if not 0 < rows <= MOST_READINGS or size > MOST_UNPACKED_BYTES:
        raise ValueError(f"{rows} readings, {size} bytes unpacked: 1 to {MOST_READINGS:,} were expected")


def _only(table: pa.Table, name: str) -> str:
    values = table[name].unique().to_pylist()
    if len(values) != 1:
        raise ValueError(f"the column {name} has {len(values)} different values, not one")
    return str(values[0])


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
