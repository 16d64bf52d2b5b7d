"""Writes rows into a shard within a transaction and finds out what became of each: stored, duplicate or conflicting (law 5)."""

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection as Driver
from psycopg.errors import CheckViolation, UniqueViolation
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import Unavailable
from mesh.ports import Partition
from query_svc.copy import COPY_COLUMNS, HEADER, TRAILER, Bigints, Moments, Reals, copy_rows, register
from query_svc.rows import CONFLICTING, DUPLICATE, STORED, Rows
from query_svc.tables import VALUE_COLUMNS

MOST_TRIES = 10
PIECE_ROWS = 5_000


async def store(connection: AsyncConnection, rows: Rows, expect_known: bool) -> NDArray[np.int8]:
    """What became of each row. New ones go in by one COPY; when that meets a key that is there, the rows are compared with
    what is there and the rest is tried again: another recorder's key, written meanwhile, is met the same way. `expect_known`:
    compare before the first COPY, which saves a COPY in vain where duplicates are likely."""
    driver = await _driver(connection)
    outcome = rows.outcome.copy()
    left = np.flatnonzero(outcome == STORED)
    compare = expect_known
    for _ in range(MOST_TRIES):
        if compare:
            await _compare(driver, rows, outcome, left)
            left = left[outcome[left] == STORED]
        if not len(left) or await _copied(connection, driver, rows, left):
            return outcome
        compare = True
    raise Unavailable(f"{len(left)} rows met keys of other writers {MOST_TRIES} times", reason="SHARD_BUSY")


async def keep_losers(
    connection: AsyncConnection, rows: Rows, outcome: NDArray[np.int8], log_id: str, partition: Partition
) -> None:
    """Puts the conflicting rows into conflicting_readings, each with its place in the log."""
    take = np.flatnonzero(outcome == CONFLICTING)
    if not len(take):
        return
    readings = rows.readings.take(take)
    arguments: list[Any] = [Bigints(readings.sensor_id), Moments(readings.measured_at_us)]
    arguments += [Reals(column) for column in readings.values]
    arguments += [Bigints(_flags(readings.flags)), Bigints(rows.record[take] + 1), Bigints(rows.index[take])]
    regions = [record.region for record in rows.records]
    offsets = np.array([record.offset for record in rows.records], np.int64)
    driver = await _driver(connection)
    async with driver.cursor() as cursor:
        register(cursor.adapters)
        await cursor.execute(_KEEP, [regions, log_id, *partition, Bigints(offsets), *arguments], prepare=False)


async def _copied(connection: AsyncConnection, driver: Driver[Any], rows: Rows, take: NDArray[np.int64]) -> bool:
    """Whether all of these rows are in; else none of them is. Made in pieces, so that the database has something to do while
    the next piece is made."""

    def piece(start: int) -> bytes:
        some = take[start : start + PIECE_ROWS]
        return copy_rows(rows.readings.take(some), rows.regions(some))

    try:
        async with connection.begin_nested(), driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            await copy.write(HEADER)
            for start in range(0, len(take), PIECE_ROWS):
                await copy.write(await asyncio.to_thread(piece, start))
            await copy.write(TRAILER)
    except UniqueViolation:
        return False
    except CheckViolation as error:  # the days that were made ahead have run out
        raise Unavailable(f"no table for these readings, is the role days running? {error}", reason="NO_DAY") from error
    return True


async def _compare(driver: Driver[Any], rows: Rows, outcome: NDArray[np.int8], left: NDArray[np.int64]) -> None:
    """Decides the rows whose keys are in the table, of these heads and of the rows behind them. A row behind a head that is
    not there keeps its outcome."""
    pending = np.zeros(len(rows), np.bool_)
    pending[left] = True
    ask = np.flatnonzero(pending[rows.head])
    readings = rows.readings.take(ask)
    arguments = [Bigints(readings.sensor_id), Moments(readings.measured_at_us), *(Reals(column) for column in readings.values)]
    async with driver.cursor(binary=True) as cursor:
        register(cursor.adapters)
        await cursor.execute(_BY_KEY)
        await cursor.execute(_COMPARE, arguments, prepare=False)
        found = np.frombuffer((await cursor.fetchone() or (b"",))[0], ">i8")
    place, same = np.divmod(found, 2)
    outcome[ask[place - 1]] = np.where(same, DUPLICATE, CONFLICTING)


async def _driver(connection: AsyncConnection) -> Driver[Any]:
    raw = (await connection.get_raw_connection()).driver_connection
    assert isinstance(raw, Driver)
    return raw


def _flags(flags: NDArray[np.uint64] | None) -> NDArray[np.int64]:
    """The same bits as BIGINT."""
    assert flags is not None
    return flags.view(np.int64)


_COPY = f"COPY sensor_readings ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"

# The comparison goes by the primary key, whatever the planner believes about tables that it has no statistics of.
_BY_KEY = (
    "SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_hashjoin', 'enable_mergejoin', 'enable_seqscan']) AS t (name)"
)

_SAME = " AND ".join(f"coalesce(r.{column}, 'NaN') = i.{column}" for column in VALUE_COLUMNS)
_INPUT = f"i (sensor_id, timestamp, {', '.join(VALUE_COLUMNS)}"
_REALS = ", ".join(["%s::real[]"] * len(VALUE_COLUMNS))
# For each row that is there: twice its place, counted from 1, and one more when the values are the same.
_COMPARE = f"""
SELECT coalesce(string_agg(int8send(i.place * 2 + ({_SAME})::int), ''), '')
FROM unnest(%s::bigint[], %s::timestamptz[], {_REALS}) WITH ORDINALITY AS {_INPUT}, place)
JOIN sensor_readings r ON r.sensor_id = i.sensor_id AND r.timestamp = i.timestamp
"""

_KEEP = f"""
WITH origin (regions, log_id, topic, partition, offsets) AS (SELECT %s::text[], %s::text, %s::text, %s::int, %s::bigint[])
INSERT INTO conflicting_readings (sensor_id, timestamp, {", ".join(VALUE_COLUMNS)}, flags, region, log_id, topic, partition,
                                  "offset", index)
SELECT i.sensor_id, i.timestamp, {", ".join(f"nullif(i.{column}, 'NaN')" for column in VALUE_COLUMNS)}, i.flags,
       regions[i.record], log_id, topic, partition, offsets[i.record], i.index
FROM origin, unnest(%s::bigint[], %s::timestamptz[], {_REALS}, %s::bigint[], %s::bigint[], %s::bigint[])
    AS {_INPUT}, flags, record, index)
"""
