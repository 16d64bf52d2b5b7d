"""A deployment that keeps readings for three days, the archive's word, and a look at the leaves."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from sqlalchemy import text

from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import ManualClock
from mesh.codec.verified_days import write_verified
from mesh.shards import open_engine, spread, transaction
from mesh.stages import Progress
from query_svc.days import Days
from query_svc.days_kept import fix_kept, utc_day
from query_svc.recorded import Recorded
from query_svc.tables import create_catalog_tables, create_shard_tables
from tests.builders import START_US
from tests.query.deployment import Deployment, FreshDatabase

SLOTS = 4
KEEP_DAYS = 3
DAY_US = 86_400_000_000
FIRST_DAY = date(2026, 1, 1)


@dataclass(slots=True)
class Keeping:
    """`mesh` with its clock and objects, and one worker that makes and drops days."""

    mesh: Deployment
    clock: ManualClock
    objects: DirectoryObjects
    progress: Progress

    @property
    def days(self) -> Days:
        mesh = self.mesh
        return Days(mesh.catalog, mesh.shards, self.objects, mesh.log.log_id, self.clock, self.progress)

    def advance(self, days: float) -> None:
        self.clock.advance(days * 86_400)

    async def say(self, until: Mapping[tuple[str, int], int], unverified: frozenset[int] = frozenset()) -> None:
        """The archive's newest word: all days that are over are verified, of what came up to `until`."""
        now_us = self.clock.now_us()
        self.clock.advance(0.000001)  # no two words at the same moment
        await self.objects.put(*write_verified(self.mesh.log.log_id, until, now_us - now_us % DAY_US, unverified, now_us))

    async def leaves(self, slot: int) -> list[str]:
        """Names of the leaves that belong to a slot, without that of the slot."""
        rows = await self.mesh.rows(_LEAVES.format(slot=slot))
        return [name.removeprefix(f"sensor_readings_s{slot}_") for (name,) in rows]

    async def all_leaves(self) -> list[list[str]]:
        return [await self.leaves(slot) for slot in range(SLOTS)]

    async def tables(self, day: date) -> int:
        """How many leaves of this day there are, whether they belong to a slot or stand alone."""
        rows = await self.mesh.rows(f"SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE '%\\_d{day:%Y%m%d}'")
        return sum(int(count) for (count,) in rows)

    async def sensors_in(self, leaf: str) -> list[int]:
        """Sensors with a reading in leaves whose name ends so, over all slots."""
        found: list[int] = []
        for slot in range(SLOTS):
            shard = int(self.mesh.shards.owner[slot])
            async with transaction(self.mesh.shards.engines[shard]) as connection:
                name = f"sensor_readings_s{slot}_{leaf}"
                if (await connection.execute(text("SELECT to_regclass(:name)"), {"name": name})).scalar_one() is not None:
                    found += (await connection.execute(text(f"SELECT sensor_id FROM {name}"))).scalars().all()
        return sorted(found)


@asynccontextmanager
async def keeping(fresh_database: FreshDatabase, folder: Path) -> AsyncIterator[Keeping]:
    """Made today, 2026-01-01: each slot has `history` and the days up to 2026-01-08."""
    clock = ManualClock(START_US)
    catalog_url = await fresh_database()
    catalog = open_engine(catalog_url, 4)
    shards = spread(SLOTS, [open_engine(await fresh_database(), 4) for _ in range(2)])
    await create_catalog_tables(catalog)
    kept = await fix_kept(catalog, KEEP_DAYS, utc_day(clock.now_us()))
    for shard, engine in shards.engines.items():
        await create_shard_tables(engine, SLOTS, shards.slots_of_shard(shard), kept.new_slot(utc_day(clock.now_us())))
    try:
        async with open_postgres_log(catalog_url, 4, clock) as log:
            mesh = Deployment(log, catalog, shards, Recorded(shards, log.log_id))
            yield Keeping(mesh, clock, DirectoryObjects(folder), Progress("days"))
    finally:
        for engine in (catalog, *shards.engines.values()):
            await engine.dispose()


def leaves_of(first: date, last: date) -> list[str]:
    """`history` and these days."""
    return [f"d{first + timedelta(days=n):%Y%m%d}" for n in range((last - first).days + 1)] + ["history"]


def at(day: int, hour: float = 12.0) -> int:
    """A time on a day of January 2026, microseconds since 1970."""
    return START_US + (day - 1) * DAY_US + round(hour * 3_600_000_000)


_LEAVES = """
SELECT leaf.relname FROM pg_inherits i JOIN pg_class leaf ON leaf.oid = i.inhrelid
WHERE i.inhparent = to_regclass('sensor_readings_s{slot}') ORDER BY 1
"""
