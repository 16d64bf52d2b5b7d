"""A database that is to become a shard: made when it is missing, refused when it has readings or slots already."""

from collections.abc import Awaitable, Callable, Sequence

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import SetupError, Unavailable
from mesh.shards import CONNECT_TIMEOUT_S, transaction

Prepare = Callable[[AsyncEngine, int], Awaitable[None]]
"""Makes the tables of a shard without slots, given the number of slots of the deployment."""


async def make_ready(engine: AsyncEngine, address: str, slots: int, prepare: Prepare) -> str:
    """The database is there, with the tables of a shard and without any slot or reading: an empty string on return, else the
    problem and its mend. Safe to repeat. Raises Unavailable."""
    try:
        await _create_database(engine)
        await prepare(engine, slots)
        async with transaction(engine) as connection:
            owned = list((await connection.execute(text("SELECT slot FROM owned_slots ORDER BY slot"))).scalars())
            leaves = list((await connection.execute(text(_LEAVES))).scalars())
    except SetupError as error:
        return f"shard {address}: {error.message}"
    if owned or leaves:
        has = f"slots {', '.join(map(str, owned[:5]))}" if owned else f"the table {leaves[0]}"
        return f"shard {address} has {has}, as a shard in use has: give an empty database, or drop what is in it"
    return ""


async def all_ready(shards: Sequence[tuple[str, AsyncEngine]], slots: int, prepare: Prepare) -> None:
    """Raises SetupError that lists every problem, Unavailable when one does not answer."""
    if problems := [found for address, engine in shards if (found := await make_ready(engine, address, slots, prepare))]:
        raise SetupError("; ".join(problems))


async def _create_database(engine: AsyncEngine) -> None:
    """Asked for in the database `postgres` of the same server."""
    url, name = engine.url, engine.url.database or ""
    there = make_url(url).set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    try:
        async with await psycopg.AsyncConnection.connect(there, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if await found.fetchone() is None:
                await connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return
    except psycopg.errors.InsufficientPrivilege:
        raise SetupError(f"the user may not make the database {name}: make it by hand (CREATE DATABASE {name})") from None
    except psycopg.OperationalError as error:
        raise Unavailable(f"the server of database {name} is away: {error}", reason="DATABASE_AWAY") from error


_LEAVES = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = CAST('sensor_readings' AS regclass) ORDER BY 1
"""
