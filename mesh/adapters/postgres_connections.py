"""A few connections to one PostgreSQL database, each statement with a deadline, the driver's errors translated to ours."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from mesh.errors import Fault, Unavailable

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 8.0
Row = tuple[Any, ...]


def conninfo_of(url: str) -> str:
    """What libpq needs of a SQLAlchemy URL, so that a dead peer is noticed within 10 s and no transaction outlives 10 s."""
    limits = {"statement_timeout": 8000, "lock_timeout": 8000, "transaction_timeout": 10000}
    limits |= {"tcp_keepalives_idle": 4, "tcp_keepalives_interval": 2, "tcp_keepalives_count": 3}
    options = " ".join(f"-c {name}={value}" for name, value in limits.items())
    return make_conninfo(url.replace("+psycopg", "", 1), connect_timeout=CONNECT_TIMEOUT_S, options=options)


async def connect(conninfo: str) -> psycopg.AsyncConnection[Row]:
    """A new connection, each statement a transaction of its own. Raises Unavailable."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S + 1):
            return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except (psycopg.Error, TimeoutError) as error:
        raise translated(error) from error


def translated(error: BaseException) -> Unavailable | Fault:
    """Our error for one of the driver's: a defect of ours where the statement itself is wrong, else the database is away."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, psycopg.ProgrammingError | psycopg.DataError | psycopg.IntegrityError | psycopg.NotSupportedError):
        return Fault(f"a statement that can never work: {text}")
    return Unavailable(f"the database does not answer as it should: {text}")


async def fetch(
    connection: psycopg.AsyncConnection[Row], query: str, parameters: Mapping[str, Any] | Sequence[Any] = ()
) -> list[Row]:
    """Runs one statement on this connection; what it gives, in binary. On any failure the connection is closed, so that what
    the session holds (locks, transactions) is gone. Raises Unavailable."""
    try:
        async with asyncio.timeout(STATEMENT_TIMEOUT_S + 1):
            cursor = await connection.execute(query.encode(), parameters, binary=True)
            return await cursor.fetchall() if cursor.description else []
    except (psycopg.Error, TimeoutError) as error:
        await connection.close()
        raise translated(error) from error
    except BaseException:
        await connection.close()
        raise


def is_alive(connection: psycopg.AsyncConnection[Row]) -> bool:
    """Looks at the socket without waiting: a session that the server has ended shows it there."""
    if connection.closed:
        return False
    try:
        connection.pgconn.consume_input()  # the server's last words,
        connection.pgconn.consume_input()  # and the end behind them
    except psycopg.Error:
        return False
    return connection.pgconn.status == psycopg.pq.ConnStatus.OK


class Connections:
    """At most `size` at a time, opened when they are needed and kept; whoever comes when all are in use waits its turn."""

    def __init__(self, conninfo: str, size: int) -> None:
        self._conninfo = conninfo
        self._free = asyncio.Semaphore(size)
        self._idle: list[psycopg.AsyncConnection[Row]] = []

    async def fetch(self, query: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[Row]:
        """Runs one statement, once, on a connection that seems alive. After Unavailable it MAY have had its effect."""
        async with self._free:
            connection = await self._take()
            rows = await fetch(connection, query, parameters)
            self._idle.append(connection)
            return rows

    async def close(self) -> None:
        """Closes those that are idle; to be called when nobody uses any."""
        while self._idle:
            await self._idle.pop().close()

    async def _take(self) -> psycopg.AsyncConnection[Row]:
        while self._idle:
            connection = self._idle.pop()
            if is_alive(connection):
                return connection
            await connection.close()
        return await connect(self._conninfo)


@asynccontextmanager
async def connections(conninfo: str, size: int) -> AsyncIterator[Connections]:
    """Connections that are closed on leaving."""
    pool = Connections(conninfo, size)
    try:
        yield pool
    finally:
        await pool.close()
