"""Brings one database to the newest revision of its history: made if it is not there, and by one host at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from sqlalchemy import exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from mesh.errors import SetupError, Unavailable, WaterError
from mesh.shards import CONNECT_TIMEOUT_S, transaction
from wq.migrations.history import History

LOCK_TIMEOUT_MS = 2_000
"""As long a change waits for a table in use, and lets nobody else begin to use it."""
MOST_TRIES = 60
WAIT_FOR_OTHER_S = 600.0
_LOOK_S = 0.5
_MAINTENANCE = "postgres"
_NO_LOCK, _NO_RIGHT, _IS_THERE, _IS_BEING_MADE = "55P03", "42501", "42P04", "23505"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one database. `found`, `now`: its revisions before and after (empty: none), `problem`: what stopped it and
    the mend; empty: it is as this version needs it. `is_away`: it may be there later."""

    database: str
    found: str = ""
    now: str = ""
    seconds: float = 0.0
    problem: str = ""
    is_away: bool = False


def shown(url: str) -> str:
    """HOST:PORT/DATABASE: what may be told of a database."""
    there = make_url(url)
    host = there.host or str(there.query.get("host", ""))
    return (
        f"{host}{f':{there.port}' if there.port else ''}/{there.database}".removeprefix("/")
        if there.host
        else str(there.database)
    )


async def migrate_database(url: str, history: History, say: Say) -> Outcome:
    """Tries; never raises but when cancelled. A database that does not exist is made. What was done stays done, whatever happens
    behind it; a second one who tries waits up to 10 minutes and finds nothing to do."""
    began, outcome = time.monotonic(), Outcome(shown(url))
    try:
        while not await is_there(url):
            if await _create(url):
                say(f"{outcome.database}: made")
            elif time.monotonic() - began > WAIT_FOR_OTHER_S:
                raise SetupError(f"{outcome.database} is being made by another all the time: look at pg_stat_activity there")
            else:
                await asyncio.sleep(_LOOK_S)
        async with opened(url) as engine:
            outcome = await _upgrade(engine, history, outcome, say)
    except WaterError as error:
        outcome = replace(outcome, problem=error.message, is_away=isinstance(error, Unavailable))
    except exc.DBAPIError as error:
        outcome = replace(outcome, problem=f"{outcome.database}: {str(error.orig).strip()}: nothing of this revision is done")
    return replace(outcome, seconds=time.monotonic() - began)


async def is_there(url: str) -> bool:
    """Whether the database exists. Raises Unavailable when its server is away or lets us not in."""
    async with opened(url) as engine:
        try:
            async with transaction(engine):
                return True
        except WaterError:
            async with opened(_beside(url)) as server, transaction(server) as connection:
                name = {"name": engine.url.database}
                if (await connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), name)).first() is None:
                    return False
            raise


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine for work of any length, whose server ends it soon after we are gone; no connection stays."""
    options = f"-c statement_timeout=0 -c lock_timeout={LOCK_TIMEOUT_MS} -c client_connection_check_interval=2000"
    gone = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
    connect = {"connect_timeout": CONNECT_TIMEOUT_S, "options": options, **gone}
    engine = create_async_engine(url, poolclass=NullPool, connect_args=connect)
    try:
        yield engine
    finally:
        await engine.dispose()


async def _upgrade(engine: AsyncEngine, history: History, outcome: Outcome, say: Say) -> Outcome:
    async with _connected(engine) as connection:
        await _be_alone(connection, outcome.database, say)
        found = await connection.run_sync(history.found)
        await connection.rollback()
        outcome = replace(outcome, found=found, now=found)
        if found and found not in history.revisions:
            return replace(outcome, problem=history.problem(outcome.database, found))

        def tell(revision: str) -> None:
            say(f"{outcome.database}: {revision}")

        for left in reversed(range(MOST_TRIES)):
            try:
                await connection.run_sync(lambda plain: history.upgrade(plain, tell))
                break
            except exc.DBAPIError as error:
                await connection.rollback()
                if getattr(error.orig, "sqlstate", None) != _NO_LOCK or not left:
                    raise
                say(f"{outcome.database}: a table is in use, once more")
                await asyncio.sleep(_LOOK_S)
        return replace(outcome, now=await connection.run_sync(history.found))


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection that is in no transaction. Raises Unavailable."""
    async with transaction(engine):
        pass  # says it when the server is away
    async with engine.connect() as connection:
        yield connection


async def _be_alone(connection: AsyncConnection, name: str, say: Say) -> None:
    """Nobody else migrates this database while the connection lives. Raises SetupError after 10 minutes."""
    deadline = time.monotonic() + WAIT_FOR_OTHER_S
    said = False
    while not (await connection.execute(text(_TRY))).scalar_one():
        await connection.rollback()
        if time.monotonic() > deadline:
            raise SetupError(
                f"{name}: another wq migrate has been at it for {WAIT_FOR_OTHER_S:g} s: end that one, or wait for it"
            )
        if not said:
            say(f"{name}: another wq migrate is at it, waiting")
        said = True
        await asyncio.sleep(_LOOK_S)
    await connection.rollback()


async def _create(url: str) -> bool:
    """Makes it; False: another is making it, or has. Raises SetupError when we may not."""
    name = str(make_url(url).database)
    quoted = '"' + name.replace('"', '""') + '"'
    async with opened(_beside(url)) as server, server.connect() as connection:
        plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await plain.exec_driver_sql(f"CREATE DATABASE {quoted}")
        except exc.DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state == _NO_RIGHT:
                mend = f"let an administrator run CREATE DATABASE {quoted} OWNER {make_url(url).username}"
                raise SetupError(f"{shown(url)} does not exist, and we may not make it: {mend}") from error
            if state not in (_IS_THERE, _IS_BEING_MADE):
                raise
            return False
    return True


def _beside(url: str) -> str:
    """The database that every server has."""
    return make_url(url).set(database=_MAINTENANCE).render_as_string(hide_password=False)


_TRY = "SELECT pg_try_advisory_lock(hashtext('wq.migrate'))"
