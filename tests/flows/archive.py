"""What the archive of a system holds, read by clients that nobody here wrote: pyarrow and DuckDB, on the objects as they lie."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from query_svc.tables import VALUE_COLUMNS
from tests.flows.process import System
from tests.flows.reading_back import first_of_each_key
from water.readings import Readings

_PLACE = ("log_id", "topic", "partition", "offset", "index")


def objects_of(system: System) -> list[Path]:
    """The Parquet objects."""
    return sorted((system.objects).glob("water_quality_data/*/*/*/*/*.parquet"))


async def by_pyarrow(system: System) -> Readings:
    """Readings of all objects without those that lost; of each key the first by its place in the log."""
    columns = ["sensor_id", "timestamp", "flags", *VALUE_COLUMNS, *_PLACE]
    table = pa.concat_tables([pq.read_table(path, columns=columns, partitioning=None) for path in objects_of(system)])
    table = table.sort_by([("offset", "ascending"), ("index", "ascending")])
    table = table.cast(pa.schema([_plain(field) for field in table.schema]))
    lost = {row[:5] for row in await losers(system)}
    places = zip(*(table[name].to_pylist() for name in _PLACE), strict=True)
    kept = np.array([place not in lost for place in places])
    return _readings({name: table[name].to_numpy()[kept] for name in ("sensor_id", "flags", *VALUE_COLUMNS)}, _us(table)[kept])


async def by_duckdb(system: System) -> Readings:
    """The same by SQL: distinct keys, minus conflicting_readings by their place in the log."""
    glob = str(system.objects / "water_quality_data" / "**" / "*.parquet")
    with duckdb.connect() as database:
        database.execute('CREATE TABLE lost (log_id text, topic text, partition int, "offset" bigint, index int)')
        if rows := await losers(system):
            database.executemany("INSERT INTO lost VALUES (?, ?, ?, ?, ?)", rows)
        values = ", ".join(f"{name}::float AS {name}" for name in VALUE_COLUMNS)
        query = (
            f"SELECT sensor_id, epoch_us(timestamp) AS at_us, flags, {values} "
            f"FROM read_parquet('{glob}', hive_partitioning=false) "
            'ANTI JOIN lost USING (log_id, topic, partition, "offset", index) '
            'QUALIFY row_number() OVER (PARTITION BY sensor_id, timestamp ORDER BY "offset", index) = 1 '
            "ORDER BY sensor_id, timestamp"
        )
        found = database.execute(query).fetchnumpy()
    columns = {name: np.ma.filled(column, np.nan) if name in VALUE_COLUMNS else column for name, column in found.items()}
    return _readings(columns, np.asarray(columns["at_us"], np.int64))


async def losers(system: System) -> list[tuple[Any, ...]]:
    """The places of conflicting_readings in all shards."""
    rows: list[tuple[Any, ...]] = []
    for shard in ("shard_0", "shard_1"):
        dsn = system.dsn(shard)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            query = 'SELECT log_id, topic, partition, "offset", index FROM conflicting_readings'
            rows += await (await connection.execute(query)).fetchall()
    return rows


def _plain(field: pa.Field) -> pa.Field:
    """Without the dictionary that a column may be written with."""
    return pa.field(field.name, field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _us(table: pa.Table) -> Any:
    return table["timestamp"].cast(pa.int64()).to_numpy()


def _readings(columns: dict[str, Any], at_us: Any) -> Readings:
    values = np.array([columns[name] for name in VALUE_COLUMNS], np.float32)
    whole = Readings(np.asarray(columns["sensor_id"], np.int64), at_us, values)
    return first_of_each_key(whole.with_flags(np.asarray(columns["flags"], np.int64).view(np.uint64)))
