"""What happens to shards: one is away, a slot is frozen, a slot is moved to another shard, step by step."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.shard_map import LiveShards, first_map
from mesh.shards import open_engine, spread_owner, transaction
from query_svc.tables import VALUE_COLUMNS

_ROW = f"sensor_id, timestamp, {', '.join(VALUE_COLUMNS)}, region, flags"
_POSITION = 'stage, slot, topic, partition, log_id, "offset", source_offset'
_SEEN = "sensor_id, region, first_time"


async def live_shards(catalog: AsyncEngine, urls: Sequence[str], slots: int, pool_size: int = 4) -> LiveShards:
    """Shards whose map is in the catalog, made there; their addresses are the names of their databases."""
    by_name = {str(make_url(url).database): url for url in urls}
    found = await first_map(catalog, spread_owner(slots, len(urls)), list(by_name))
    return LiveShards(catalog, found, lambda address: open_engine(by_name[address], pool_size))


async def go_away(url: str) -> None:
    """The database takes no connection from now on, and has lost those it had."""
    async with _elsewhere(url) as (connection, name):
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


async def come_back(url: str) -> None:
    """It takes connections. Safe to repeat."""
    async with _elsewhere(url) as (connection, name):
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())


@asynccontextmanager
async def away(url: str) -> AsyncIterator[None]:
    """Inside, the database is away."""
    await go_away(url)
    try:
        yield
    finally:
        await come_back(url)


async def freeze(engine: AsyncEngine, slot: int, *, writable: bool = False) -> None:
    """No recorder writes the slot from now on, and those who did are through."""
    async with transaction(engine) as connection:
        await connection.execute(text("LOCK TABLE owned_slots IN EXCLUSIVE MODE"))
        arguments = {"slot": slot, "writable": writable}
        await connection.execute(text("UPDATE owned_slots SET writable = :writable WHERE slot = :slot"), arguments)


class Move:
    """A slot that is moved from one shard to another: `copy`, then `hand_over`, then `publish`, then `forget`."""

    def __init__(self, catalog: AsyncEngine, shards: LiveShards, slot: int, target: int) -> None:
        self._catalog = catalog
        now = shards.now
        self._slots, self._slot, self._target = now.slots, slot, target
        self._from, self._to = now.engines[int(now.owner[slot])], now.engines[target]

    async def run(self) -> None:
        """All of it."""
        await freeze(self._from, self._slot)
        await self.copy()
        await self.hand_over()
        await self.publish()
        await self.forget()

    async def copy(self) -> None:
        """Readings and positions of the frozen slot are in the target."""
        leaf = f"sensor_readings_s{self._slot}"
        bounds = f"FOR VALUES WITH (MODULUS {self._slots}, REMAINDER {self._slot})"
        async with transaction(self._from) as source, transaction(self._to) as target:
            await target.execute(text(f"CREATE TABLE {leaf} PARTITION OF sensor_readings {bounds}"))
            for table, columns, where in (
                (leaf, _ROW, "true"),
                ("positions", _POSITION, f"slot = {self._slot}"),
                ("sensors_seen", _SEEN, f"sensor_id IN (SELECT sensor_id FROM {leaf})"),
            ):
                rows = (await source.execute(text(f"SELECT {columns} FROM {table} WHERE {where}"))).all()
                names = [name.strip(' "') for name in columns.split(",")]
                put = f"INSERT INTO {table} ({columns}) VALUES ({', '.join(f':{name}' for name in names)})"
                if rows:
                    await target.execute(text(put), [dict(zip(names, row, strict=True)) for row in rows])

    async def hand_over(self) -> None:
        """For a moment it is nobody's, then the target's."""
        async with transaction(self._from) as source:
            await source.execute(text(f"DELETE FROM owned_slots WHERE slot = {self._slot}"))
        async with transaction(self._to) as target:
            await target.execute(text(f"INSERT INTO owned_slots (slot) VALUES ({self._slot})"))

    async def publish(self) -> None:
        """The map says so."""
        async with transaction(self._catalog) as connection:
            await connection.execute(text(f"UPDATE shard_map SET shard = {self._target} WHERE slot = {self._slot}"))
            await connection.execute(text("UPDATE shard_map_version SET version = version + 1"))

    async def forget(self) -> None:
        """The source has nothing of it any more."""
        async with transaction(self._from) as source:
            leaf = f"sensor_readings_s{self._slot}"
            await source.execute(text(f"DELETE FROM sensors_seen WHERE sensor_id IN (SELECT sensor_id FROM {leaf})"))
            await source.execute(text(f"DROP TABLE {leaf}"))
            await source.execute(text(f"DELETE FROM positions WHERE slot = {self._slot}"))


@asynccontextmanager
async def _elsewhere(url: str) -> AsyncIterator[tuple[psycopg.AsyncConnection, str]]:
    """A connection to another database of the same server, and the name of this one."""
    place = make_url(url)
    there = place.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    async with await psycopg.AsyncConnection.connect(there, autocommit=True) as connection:
        yield connection, str(place.database)
