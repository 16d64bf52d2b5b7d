"""Which shard has which slot: the versioned map in the catalog database, and in each shard the slots that it has.

The map says where to ask; the shard itself says, in the snapshot of the question, whether it was right. So a reader or writer
with an old map gets an error (SHARD_MOVED), never an answer with something missing, and a write never lands beside its slot.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.errors import Conflict, SetupError, Unavailable
from mesh.ports import Clock
from mesh.shards import COMBINE, HASH_SEED, Shards, transaction
from mesh.stages import Progress

LOOK_EVERY_S = 1.0
SLOTS_HERE = (
    "1 / (SELECT (count(*) = cardinality(%(slots)s::int[]))::int FROM owned_slots WHERE slot = ANY(%(slots)s::int[])) = 1"
)
"""A condition of any query of a shard, in psycopg's placeholders: true where it has all of `slots`, else the query fails
(division by zero): a slot that was moved away must not look like no readings."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class ShardMap:
    """`owner`: a shard number per slot; `addresses`: of every shard that is not retired, by number: the database's name alone
    when it is beside the catalog, else postgresql://HOST:PORT/DATABASE; user and password are those of the catalog."""

    version: int
    owner: NDArray[np.int64]
    addresses: Mapping[int, str]


async def create_map(connection: AsyncConnection) -> None:
    """Makes the tables of the catalog database unless they are there."""
    for statement in (_SHARDS, _MAP, _VERSION):
        await connection.execute(text(statement))


async def create_owned(connection: AsyncConnection, slots: Iterable[int]) -> None:
    """Makes the table of a shard unless it is there; a shard that never had it has these slots from now on."""
    if (await connection.execute(text("SELECT to_regclass('owned_slots')"))).scalar_one() is None:
        await connection.execute(text(_OWNED))
        await connection.execute(text(_OWN), {"slots": list(slots)})


async def hold(connection: AsyncConnection, slots: Iterable[int], within_s: float) -> set[int]:
    """Those of the slots that this shard has and that may be written; so they stay until the transaction ends. Must be its first
    statement. Whoever moves a slot away waits for that end, so the server ends it itself when a statement takes longer than
    `within_s`, or its client keeps it waiting that long (a process that was stopped)."""
    limits = {"slots": list(slots), "within": str(round(within_s * 1000))}
    return set((await connection.execute(text(_HOLD), limits)).scalars())


async def read_map(catalog: AsyncEngine) -> ShardMap | None:
    """The newest version; None: there is none yet. Raises Unavailable."""
    async with transaction(catalog) as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        version = (await connection.execute(text("SELECT version FROM shard_map_version"))).scalar_one_or_none()
        if version is None:
            return None
        owner = (await connection.execute(text("SELECT shard FROM shard_map ORDER BY slot"))).scalars().all()
        rows = await connection.execute(text("SELECT shard, address FROM shards WHERE NOT retired ORDER BY shard"))
        return ShardMap(int(version), np.array(owner, np.int64), {int(shard): str(address) for shard, address in rows})


async def change_map(connection: AsyncConnection, moved: Mapping[int, tuple[int, int]] | None = None) -> None:
    """A new version with the commit of this transaction. `moved`: slots, each with the shard that it leaves and that it goes to.
    Raises Conflict when the map does not have one where it leaves from."""
    for slot, (source, target) in (moved or {}).items():
        place = {"slot": slot, "source": source, "target": target}
        if (await connection.execute(text(_MOVE), place)).rowcount != 1:
            raise Conflict(f"slot {slot} is not of shard {source} any more: somebody else changed the map")
    await connection.execute(text("UPDATE shard_map_version SET version = version + 1"))


def slot_sql(slots: int, sensor: str = "sensor_id") -> str:
    """SQL for `slot_of` in mesh/shards.py: the slot, a bigint, of the sensor id that `sensor` is SQL for. For tables that are not
    divided by slot; about 3 M rows a second."""
    hashed = f"hashint8extended({sensor}, {HASH_SEED})"
    low = f"(({hashed} & 4294967295) + {COMBINE & 0xFFFFFFFF})"
    high = f"((({hashed} >> 32) & 4294967295) + {COMBINE >> 32} + ({low} >> 32) & 4294967295)"
    return f"mod(mod({high}, {slots}) * {2**32 % slots} + mod({low} & 4294967295, {slots}), {slots})"


async def first_map(catalog: AsyncEngine, owner: NDArray[np.int64], addresses: Sequence[str]) -> ShardMap:
    """The map, made as version 1 from these unless there is one. Safe to run from several processes. Raises SetupError when
    there is one with another number of slots."""
    async with transaction(catalog) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('mesh.shard_map'))"))
        if (await connection.execute(text("SELECT 1 FROM shard_map_version"))).first() is None:
            await connection.execute(text(_ADD_SHARDS), {"shards": list(range(len(addresses))), "addresses": list(addresses)})
            await connection.execute(text(_ADD_SLOTS), {"slots": list(range(len(owner))), "shards": owner.tolist()})
            await connection.execute(text("INSERT INTO shard_map_version (version) VALUES (1)"))
    found = await read_map(catalog)
    assert found is not None
    if len(found.owner) != len(owner):
        raise SetupError(
            f"slots = {len(owner)}, but this deployment was made with {len(found.owner)}: set slots = {len(found.owner)},"
            " or restore into a new deployment"
        )
    return found


class LiveShards:
    """The newest map that is known here, with engines that are opened once per shard. Close it with `dispose`."""

    def __init__(self, catalog: AsyncEngine, found: ShardMap, open_shard: Callable[[str], AsyncEngine]) -> None:
        self._catalog = catalog
        self._open = open_shard
        self._engines: dict[tuple[int, str], AsyncEngine] = {}
        self._now = self._with_engines(found)

    @property
    def now(self) -> Shards:
        """One version, to be kept for one piece of work."""
        return self._now

    async def newer(self) -> Shards:
        """Asks the catalog for a newer version; the newest there is. Raises Unavailable."""
        async with transaction(self._catalog) as connection:
            version = (await connection.execute(text("SELECT version FROM shard_map_version"))).scalar_one()
        if version > self._now.version:
            found = await read_map(self._catalog)
            if found is not None and found.version > self._now.version:
                self._now = self._with_engines(found)
                _log.info("shard map", version=found.version, shards=len(found.addresses))
        return self._now

    async def dispose(self) -> None:
        """Closes every connection, also of shards that have left the map."""
        for engine in self._engines.values():
            await engine.dispose()

    def _with_engines(self, found: ShardMap) -> Shards:
        for place in found.addresses.items():
            if place not in self._engines:
                self._engines[place] = self._open(place[1])
        return Shards(found.owner, {place[0]: self._engines[place] for place in found.addresses.items()}, found.version)


class FollowMap:
    """Looks for a newer map once a second, for everything in this process that has one."""

    def __init__(self, lives: Sequence[LiveShards], progress: Progress, clock: Clock) -> None:
        self._lives = lives
        self._progress = progress
        self._clock = clock

    async def run(self) -> None:
        """Runs until cancelled. While the catalog is away the map stays as it is."""
        while True:
            try:
                for live in self._lives:
                    await live.newer()
                self._progress.problem = ""
            except Unavailable as error:
                self._progress.problem = f"the shard map cannot be read: {error.message}"
            await self._clock.sleep(LOOK_EVERY_S)


_SHARDS = """
CREATE TABLE IF NOT EXISTS shards (shard int PRIMARY KEY, address text NOT NULL UNIQUE, retired boolean NOT NULL DEFAULT false)
"""
_MAP = "CREATE TABLE IF NOT EXISTS shard_map (slot int PRIMARY KEY, shard int NOT NULL REFERENCES shards)"
_VERSION = """
CREATE TABLE IF NOT EXISTS shard_map_version (
    version bigint NOT NULL, only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one))
"""
_MOVE = "UPDATE shard_map SET shard = :target WHERE slot = :slot AND shard = :source"
_ADD_SHARDS = """
INSERT INTO shards (shard, address) SELECT * FROM unnest(CAST(:shards AS int[]), CAST(:addresses AS text[]))
"""
_ADD_SLOTS = "INSERT INTO shard_map (slot, shard) SELECT * FROM unnest(CAST(:slots AS int[]), CAST(:shards AS int[]))"

_HOLD = """
SELECT slot, (
    SELECT count(set_config(name, :within, true))
    FROM (VALUES ('statement_timeout'), ('idle_in_transaction_session_timeout')) AS limits (name))
FROM owned_slots WHERE slot = ANY(CAST(:slots AS int[])) AND writable ORDER BY slot FOR SHARE
"""

# writable: false while the slot is being moved away: it can be read here, and waits in the Log to be written elsewhere.
_OWNED = "CREATE TABLE owned_slots (slot int PRIMARY KEY, writable boolean NOT NULL DEFAULT true)"
_OWN = "INSERT INTO owned_slots (slot) SELECT unnest(CAST(:slots AS int[]))"
