"""How are the rows of a query read as numpy columns: by binary COPY, which PostgreSQL and we handle at a million rows a second.

Format: PostgreSQL documentation, "COPY: Binary Format". Every selected column must be NOT NULL and of a fixed width.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import generators, pq, waiting
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import Fault, TooLarge, Unavailable

Kind = Literal["bigint", "timestamptz", "real", "double precision", "int", "text20"]
"""What a column is. text20: text of exactly 20 ASCII characters (`rpad(x, 20)`), read without the blanks at its end."""

_WIRE: dict[Kind, str] = {
    "bigint": ">i8",
    "timestamptz": ">i8",
    "real": ">f4",
    "double precision": ">f8",
    "int": ">i4",
    "text20": "S20",
}
_EPOCH_US = 946_684_800_000_000  # 2000-01-01T00:00:00Z, where PostgreSQL's times start
_HEADER_BYTES = 19
_TRAILER_BYTES = 2


async def copy_out(
    engine: AsyncEngine,
    query: str,
    arguments: Mapping[str, Any],
    columns: Sequence[tuple[str, Kind]],
    timeout_s: float,
) -> dict[str, NDArray[Any]]:
    """The rows of `query` (placeholders `%(name)s`) by column, in native byte order; timestamptz as int64 microseconds since
    1970. One round trip. All rows are held in memory: the query bounds them. Raises TooLarge (QUERY_TOO_LONG) when the
    database needed more than `timeout_s`, Unavailable when it is away or has no such table (any more)."""
    try:
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            if not isinstance(driver, psycopg.AsyncConnection):
                raise Fault(f"COPY needs psycopg, the engine is {engine.driver}: use postgresql+psycopg://")
            text = psycopg.AsyncClientCursor(driver).mogrify(query, arguments)
            limit = f"SET LOCAL statement_timeout = {round(timeout_s * 1000)}"
            statement = f"{limit}; COPY ({text}) TO STDOUT (FORMAT BINARY)".encode()
            async with driver.lock:
                content = await driver.wait(_copied(driver.pgconn, statement))
    except psycopg.errors.QueryCanceled as error:
        message = f"the database did not answer within {timeout_s:g} s: ask for fewer sensors or a shorter time"
        raise TooLarge(message, reason="QUERY_TOO_LONG") from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.DivisionByZero) as error:  # SLOTS_HERE in mesh/shard_map.py
        message = f"database {engine.url.database} does not have a slot that was asked for (any more): {error}"
        raise Unavailable(message, reason="SHARD_MOVED") from error
    except (psycopg.OperationalError, exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        raise Unavailable(f"database {engine.url.database} is away: {error}", reason="DATABASE_AWAY") from error
    return _columns(content, columns)


def _copied(connection: Any, statement: bytes) -> Generator[waiting.Wait, waiting.Ready | int, bytearray]:
    """Runs the statements and gives the whole content of the COPY at their end. The loop runs once per row, hence its form."""
    connection.send_query(statement)
    for result in (yield from generators.execute(connection)):
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    content = bytearray()
    add, get = content.extend, connection.get_copy_data
    while True:
        size, row = get(1)
        if size > 0:
            add(row)
        elif size < 0:
            break
        else:
            while not (yield waiting.Wait.R):
                continue
            connection.consume_input()
    for result in (yield from generators.fetch_many(connection)):
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    return content


def _columns(content: bytearray, columns: Sequence[tuple[str, Kind]]) -> dict[str, NDArray[Any]]:
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in columns:
        fields += [(f"{name} length", ">i4"), (name, _WIRE[kind])]
    row = np.dtype(fields)
    count, rest = divmod(len(content) - _HEADER_BYTES - _TRAILER_BYTES, row.itemsize)
    rows = np.frombuffer(content, row, max(0, count), _HEADER_BYTES)
    widths = {name: np.dtype(_WIRE[kind]).itemsize for name, kind in columns}
    told = (rows["fields"] == len(columns)).all() and all((rows[f"{name} length"] == widths[name]).all() for name in widths)
    if rest or not told:
        raise Fault(f"a COPY does not consist of rows of {widths}: a column is NULL or not as told")
    return {name: _native(rows[name], kind) for name, kind in columns}


def _native(column: NDArray[Any], kind: Kind) -> NDArray[Any]:
    if kind == "text20":
        return np.char.rstrip(column)
    native = column.astype(column.dtype.newbyteorder("="))
    return native + _EPOCH_US if kind == "timestamptz" else native
