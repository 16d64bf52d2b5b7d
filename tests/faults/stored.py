"""What shards and archive hold of a run, read past the mesh: by SQL on every shard, by pyarrow from the objects themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tests.faults.course import Course
from tests.faults.deployment import Deployment
from tests.faults.truth import Key, as_bytes
from water.parameter import PARAMETERS
from water.readings import Readings, concatenate, empty

_COLUMNS = tuple(parameter.sql_column for parameter in PARAMETERS)
_PLACE = ("log_id", "topic", "partition", "offset", "index")
_OF_THE_RUN = "sensor_id >= %s AND sensor_id < %s"
_AT_US = "(extract(epoch FROM timestamp) * 1000000)::bigint"


@dataclass(frozen=True, slots=True)
class Stored:
    """`rows`: by sensor and time, with flags; `doubled`: rows whose key another shard has too, or whose place in the log
    another object has too."""

    rows: Readings
    doubled: int


async def read_shards(dsns: Mapping[int, str], course: Course) -> Stored:
    """The rows of the run's sensors in all shards."""
    parts = []
    for dsn in dsns.values():
        columns = ", ".join(_COLUMNS)
        query = f"SELECT sensor_id, {_AT_US}, flags, {columns} FROM sensor_readings WHERE {_OF_THE_RUN}"
        parts.append(_readings(await _fetch(dsn, query, course.sensor_range)))
    rows = _in_order(concatenate(parts))
    same = (np.diff(rows.sensor_id) == 0) & (np.diff(rows.measured_at_us) == 0)
    return Stored(rows, int(same.sum()))


async def read_losers(dsns: Mapping[int, str], course: Course) -> tuple[dict[Key, set[bytes]], set[tuple[Any, ...]]]:
    """Of the run's readings in conflicting_readings: the values of each key, and their places in the log."""
    values: dict[Key, set[bytes]] = {}
    places: set[tuple[Any, ...]] = set()
    names = ", ".join((*_COLUMNS, "log_id", "topic", "partition", '"offset"', "index"))
    for dsn in dsns.values():
        query = f"SELECT sensor_id, {_AT_US}, {names} FROM conflicting_readings WHERE {_OF_THE_RUN}"
        for sensor_id, at_us, *rest in await _fetch(dsn, query, course.sensor_range):
            lost = np.array([np.nan if value is None else value for value in rest[: len(_COLUMNS)]], np.float32)
            values.setdefault((sensor_id, at_us), set()).add(as_bytes(lost))
            places.add(tuple(rest[len(_COLUMNS) :]))
    return values, places


async def read_archive(deployment: Deployment, course: Course, losers: set[tuple[Any, ...]]) -> Stored:
    """What the objects of the run's region hold, without the losers, of each key the first by its place in the log."""
    tables = [
        pq.read_table(pa.BufferReader(content), columns=["sensor_id", "timestamp", "flags", *_COLUMNS, *_PLACE])
        async for content in deployment.objects(f"water_quality_data/{course.region}/")
    ]
    if not tables:
        return Stored(empty().with_flags(np.empty(0, np.uint64)), 0)
    whole = pa.concat_tables([table.cast(pa.schema([_plain(field) for field in table.schema])) for table in tables])
    whole = whole.sort_by([("topic", "ascending"), ("offset", "ascending"), ("index", "ascending")])
    places = list(zip(*(whole[name].to_pylist() for name in _PLACE), strict=True))
    kept = np.array([place not in losers for place in places])
    values = np.array([whole[name].to_numpy() for name in _COLUMNS], np.float32)
    at_us = whole["timestamp"].cast(pa.int64()).to_numpy()
    readings = Readings(whole["sensor_id"].to_numpy(), at_us, values).with_flags(_unsigned(whole["flags"].to_numpy()))
    rows = _first_of_each_key(readings.take(np.flatnonzero(kept)))
    return Stored(rows, len(places) - len(set(places)))


async def _fetch(dsn: str, query: str, arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return await (await connection.execute(query.encode(), arguments)).fetchall()


def _readings(rows: list[tuple[Any, ...]]) -> Readings:
    table = np.array([[np.nan if value is None else value for value in row[3:]] for row in rows], np.float32)
    numbers = np.array([row[:3] for row in rows], np.int64).reshape(len(rows), 3)
    values = np.ascontiguousarray(table.reshape(len(rows), len(_COLUMNS)).T)
    return Readings(numbers[:, 0], numbers[:, 1], values).with_flags(_unsigned(numbers[:, 2]))


def _unsigned(flags: NDArray[np.int64]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(flags, np.int64).view(np.uint64)


def _in_order(readings: Readings) -> Readings:
    return readings.take(np.lexsort((readings.measured_at_us, readings.sensor_id)))


def _first_of_each_key(readings: Readings) -> Readings:
    """Stable: by sensor and time, else as they came."""
    ordered = _in_order(readings)
    same = (np.diff(ordered.sensor_id) == 0) & (np.diff(ordered.measured_at_us) == 0)
    return ordered.take(np.flatnonzero(np.append(np.ones(min(1, len(ordered)), np.bool_), ~same)))


def _plain(field: pa.Field) -> pa.Field:
    """Without the dictionary that a column may be written with."""
    return pa.field(field.name, field.type.value_type) if pa.types.is_dictionary(field.type) else field
