"""What are the exact percentiles of each group, parameter and bucket: from how often each value occurs, on all shards."""

from collections.abc import Sequence
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

MOST_VALUES = 500_000

_COLUMNS: list[tuple[str, Kind]] = [
    ("place", "bigint"),
    ("parameter", "bigint"),
    ("bucket", "timestamptz"),
    ("value", "real"),
    ("count", "bigint"),
]


async def distribution(shards: Shards, chunk: Chunk, buckets: Buckets, percentiles: Sequence[float]) -> Statistics | None:
    """All statistics from one reading of the data, so that they agree with each other. None: more than 500,000 distinct
    values (per group, parameter and bucket) on one shard."""

    async def of_shard(shard: int, engine: AsyncEngine) -> dict[str, NDArray[Any]]:
        return await _values_of_shard(shards, shard, engine, chunk, buckets)

    parts = await shards.gather(of_shard, shards_of(shards, chunk.selection.sensors))
    parts = [part for part in parts if part]
    if any(len(part["place"]) > MOST_VALUES for part in parts):
        return None
    place, parameter, bucket, value, count = (_column(parts, name, kind) for name, kind in _COLUMNS)
    order = np.lexsort((value, bucket, parameter, place))
    place, parameter, bucket, value, count = (column[order] for column in (place, parameter, bucket, value, count))
    starts = run_starts(place, parameter, bucket)
    if not len(starts):
        return Statistics(place, parameter, bucket, count, value.astype(np.float64), value, value, np.empty((0, 0), np.float32))
    ends = np.append(starts[1:], len(place))
    return Statistics(
        place[starts],
        parameter[starts],
        bucket[starts],
        np.add.reduceat(count, starts),
        np.add.reduceat(value.astype(np.float64) * count, starts),
        value[starts],
        value[ends - 1],
        percentiles_of(value, count, starts, percentiles),
    )


def percentiles_of(
    value: NDArray[np.float32], count: NDArray[np.int64], starts: NDArray[np.intp], percentiles: Sequence[float]
) -> NDArray[np.float32]:
    """Of each run (from its start to the next) of ascending values, each occurring `count` times: the percentile at rank
    p/100 * (n - 1), between two values by linear interpolation, as percentile_cont of SQL. Shape (percentiles, runs)."""
    until = np.cumsum(count)
    before = until[starts] - count[starts]
    total = np.add.reduceat(count, starts)
    found = np.empty((len(percentiles), len(starts)), np.float32)
    for row, percentile in zip(found, percentiles, strict=True):
        rank = percentile / 100 * (total - 1)
        low = np.floor(rank).astype(np.int64)
        high = np.ceil(rank).astype(np.int64)
        below = value[np.searchsorted(until, before + low, "right")].astype(np.float64)
        above = value[np.searchsorted(until, before + high, "right")].astype(np.float64)
        row[:] = below + (above - below) * (rank - low)
    return found


async def _values_of_shard(
    shards: Shards, shard: int, engine: AsyncEngine, chunk: Chunk, buckets: Buckets
) -> dict[str, NDArray[Any]]:
    source = chunk.source(shards, shard)
    if source is None:
        return {}
    values, arguments = usable_values(chunk, buckets)
    long = ", ".join(f"({parameter.number}::bigint, v.{parameter.sql_column})" for parameter in chunk.selection.parameters)
    query = f"""
        SELECT v.place, p.number, v.bucket, p.value, count(*) FROM ({source.query}) AS s
        CROSS JOIN LATERAL ({values}) AS v CROSS JOIN LATERAL (VALUES {long}) AS p (number, value)
        WHERE {SLOTS_HERE} AND p.value IS NOT NULL
        GROUP BY v.place, p.number, v.bucket, p.value LIMIT {MOST_VALUES + 1}"""
    return await copy_out(engine, query, source.arguments | arguments, _COLUMNS, QUERY_TIMEOUT_S)


def _column(parts: Sequence[dict[str, NDArray[Any]]], name: str, kind: Kind) -> NDArray[Any]:
    empty = np.empty(0, np.float32 if kind == "real" else np.int64)
    return np.concatenate([empty, *(part[name] for part in parts)])
