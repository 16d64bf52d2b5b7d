"""What are count, sum, smallest and largest of each group, parameter and bucket: computed beside the data, merged here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.postgres_copy import Kind, copy_out
from mesh.shard_map import SLOTS_HERE
from mesh.shards import Shards
from query_svc.buckets import Buckets, usable_values
from query_svc.groups import Chunk
from query_svc.selection import QUERY_TIMEOUT_S, shards_of
from query_svc.series import Statistics, run_starts
from water.parameter import Parameter

MOST_BUCKETS = 50_000

_Rows = Mapping[str, NDArray[Any]]


async def sums(shards: Shards, chunk: Chunk, buckets: Buckets) -> Statistics | None:
    """None: more than 50,000 (group, bucket) pairs on one shard."""

    async def of_shard(shard: int, engine: AsyncEngine) -> _Rows:
        return await _sums_of_shard(shards, shard, engine, chunk, buckets)

    parts = await shards.gather(of_shard, shards_of(shards, chunk.selection.sensors))
    parts = [part for part in parts if part]
    if any(len(part["place"]) > MOST_BUCKETS for part in parts):
        return None
    return _merged(parts, chunk.selection.parameters)


async def _sums_of_shard(shards: Shards, shard: int, engine: AsyncEngine, chunk: Chunk, buckets: Buckets) -> _Rows:
    source = chunk.source(shards, shard)
    if source is None:
        return {}
    values, arguments = usable_values(chunk, buckets)
    columns: list[tuple[str, Kind]] = [("place", "bigint"), ("bucket", "timestamptz")]
    selected = ["v.place", "v.bucket"]
    for parameter in chunk.selection.parameters:
        name = parameter.sql_column
        selected += [f"count({name})", f"coalesce(sum({name}::double precision), 0)"]
        selected += [f"coalesce(min({name}), 'NaN'::real)", f"coalesce(max({name}), 'NaN'::real)"]
        columns += [(f"{name} count", "bigint"), (f"{name} sum", "double precision")]
        columns += [(f"{name} min", "real"), (f"{name} max", "real")]
    query = f"""
        SELECT {", ".join(selected)} FROM ({source.query}) AS s CROSS JOIN LATERAL ({values}) AS v
        WHERE {SLOTS_HERE} GROUP BY v.place, v.bucket LIMIT {MOST_BUCKETS + 1}"""
    return await copy_out(engine, query, source.arguments | arguments, columns, QUERY_TIMEOUT_S)


def _merged(parts: Sequence[_Rows], parameters: Sequence[Parameter]) -> Statistics:
    long: list[tuple[NDArray[Any], ...]] = [
        (
            part["place"],
            np.full(len(part["place"]), parameter.number, np.int64),
            part["bucket"],
            *(part[f"{parameter.sql_column} {what}"] for what in ("count", "sum", "min", "max")),
        )
        for part in parts
        for parameter in parameters
    ]
    types = (np.int64, np.int64, np.int64, np.int64, np.float64, np.float32, np.float32)
    columns = [np.concatenate([np.empty(0, kind), *(rows[i] for rows in long)]).astype(kind) for i, kind in enumerate(types)]
    present = columns[3] > 0
    order = np.flatnonzero(present)[np.lexsort([columns[i][present] for i in (2, 1, 0)])]
    group, parameter, bucket, count, total, least, most = (column[order] for column in columns)
    starts = run_starts(group, parameter, bucket)
    if not len(starts):
        return Statistics(group, parameter, bucket, count, total, least, most, np.empty((0, 0), np.float32))
    return Statistics(
        group[starts],
        parameter[starts],
        bucket[starts],
        np.add.reduceat(count, starts),
        np.add.reduceat(total, starts),
        np.minimum.reduceat(least, starts),
        np.maximum.reduceat(most, starts),
        np.empty((0, len(starts)), np.float32),
    )
