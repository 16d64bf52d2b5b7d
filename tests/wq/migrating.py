"""Deployments for the tests of `wq migrate`: databases by name on the run's server, and what is in them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc.wiring import create_alert_tables
from archive_svc.wiring import create_archive_tables
from ingest_svc.wiring import create_ingest_tables
from mesh import stages
from mesh.adapters.embedded_postgres import EmbeddedPostgres
from mesh.clock import ManualClock
from mesh.shards import open_engine, spread, transaction
from query_svc.catalog_tables import create_tables
from query_svc.reshard.journal import open_journal
from query_svc.tables import create_catalog_tables, create_shard_tables
from tests.conftest import START_US
from wq.migrations.deployment import Wanted, migrate_all
from wq.migrations.one_database import Outcome

SLOTS = 8


@dataclass(slots=True)
class Place:
    """Names of databases that do not exist yet, and a way to migrate them."""

    server: EmbeddedPostgres
    name: str
    shards: Sequence[str]
    keep_days: int = 0
    said: list[str] = field(default_factory=list)

    def url(self, address: str) -> str:
        return self.server.url(address or f"{self.name}_catalog")

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.url, self.shards, SLOTS, self.keep_days)

    async def migrate(self, wanted: Wanted | None = None) -> list[Outcome]:
        return await migrate_all(wanted or self.wanted, ManualClock(START_US), self.said.append)

    @asynccontextmanager
    async def engine(self, address: str = "") -> AsyncIterator[AsyncEngine]:
        engine = open_engine(self.url(address), 3)
        try:
            yield engine
        finally:
            await engine.dispose()

    async def rows(self, statement: str, address: str = "") -> list[tuple[Any, ...]]:
        async with self.engine(address) as engine, transaction(engine) as connection:
            found = await connection.execute(text(statement))
            return [tuple(row) for row in found] if found.returns_rows else []

    async def make_the_old_way(self) -> None:
        """All databases, as they were made before there were migrations."""
        for address in ("", *self.shards):
            await self.server.create_database(address or f"{self.name}_catalog")
        async with self.engine() as catalog:
            await create_catalog_tables(catalog)
            await create_tables(catalog)
            async with transaction(catalog) as connection:
                await stages.create(connection)
            await create_ingest_tables(catalog)
            await create_alert_tables(catalog, ManualClock(START_US))
            await create_archive_tables(catalog)
            async with open_journal(catalog):
                pass
        shards = spread(SLOTS, [open_engine(self.url(address), 1) for address in self.shards])
        for shard, engine in shards.engines.items():
            await create_shard_tables(engine, SLOTS, shards.slots_of_shard(shard))
            await engine.dispose()


@asynccontextmanager
async def a_place(server: EmbeddedPostgres, shard_count: int = 2, keep_days: int = 0) -> AsyncIterator[Place]:
    """Nothing is there yet; whatever came to be is dropped afterwards."""
    name = f"migrate_{uuid4().hex[:8]}"
    yield Place(server, name, [f"{name}_shard_{number}" for number in range(shard_count)], keep_days)
    async with await psycopg.AsyncConnection.connect(server.dsn("postgres"), autocommit=True) as connection:
        found = await connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (f"{name}%",))
        for (database,) in await found.fetchall():
            await connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(database)))


async def shape(engine: AsyncEngine) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that a schema consists of, without what migrations add for themselves."""
    async with transaction(engine) as connection:
        return {name: [tuple(row) for row in await connection.execute(text(statement))] for name, statement in _SHAPE.items()}


async def until(holds: Callable[[], bool]) -> None:
    """Waits until it holds, at most 30 s."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in a database
            await asyncio.sleep(0.01)


_OURS = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND c.relname NOT LIKE 'schema_version%'"

_SHAPE = {
    "columns": f"""
SELECT n.nspname, c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
       a.attgenerated::text, l.collname, pg_get_expr(d.adbin, d.adrelid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE {_OURS} AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'S') ORDER BY 1, 2, a.attnum
""",
    "constraints": f"""
SELECT n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} ORDER BY 1, 2, 3
""",
    "indexes": f"""
SELECT n.nspname, c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS} ORDER BY 1, 2, 3
""",
    "views and bounds": f"""
SELECT n.nspname, c.relname, pg_get_viewdef(c.oid), pg_get_expr(c.relpartbound, c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS} AND (c.relkind = 'v' OR c.relispartition AND c.relkind IN ('r', 'p')) ORDER BY 1, 2
""",
}
