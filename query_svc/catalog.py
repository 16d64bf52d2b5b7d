"""What is the whole catalog in its newest version, as a context: only what people have said."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.codec.catalog import write_catalog
from mesh.codec.log_records import ContextKind
from mesh.context import Context
from mesh.shards import transaction
from query_svc.catalog_tables import SENSORS, SITES
from query_svc.sensors import sensor_of
from query_svc.sites import site_of


class CatalogOwner:
    """Owner of the catalog context (mesh.context.Owner): versions are commits in the catalog database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def unpublished(self) -> AsyncIterator[Context | None]:
        """Takes an advisory lock and holds it, and one connection, until the block is left."""
        async with transaction(self._engine) as connection:
            ours = (await connection.execute(text(_LOCK))).scalar_one()
            pending = ours and (await connection.execute(text(_PENDING))).scalar_one()
            context = await self._newest() if pending else None
            yield context
            if context is not None:
                await connection.execute(text(_MARK), {"version": context.version})

    async def _newest(self) -> Context:
        """One snapshot, so that the content is exactly that of the version."""
        async with transaction(self._engine) as connection:
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            version = (await connection.execute(text("SELECT newest FROM catalog.version"))).scalar_one()
            return Context(ContextKind.CATALOG, version, await _content(connection))


async def _content(connection: AsyncConnection) -> bytes:
    sites = await connection.execute(select(SITES).order_by(SITES.c.site_id))
    described = select(SENSORS).where(~SENSORS.c.first_sight).order_by(SENSORS.c.sensor_id)
    return write_catalog(map(site_of, sites), map(sensor_of, await connection.execute(described)))


_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('catalog.context'))"
_PENDING = "SELECT published < newest FROM catalog.version"
_MARK = "UPDATE catalog.version SET published = greatest(published, :version)"
