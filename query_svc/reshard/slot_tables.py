"""The tables that a slot consists of: how they look at one shard, the same at another, attached there and gone here.

A slot is one table, or one that is divided by time (see days_leaves.py). On its way it is in the schema `incoming`, where it
belongs to nobody: neither queries nor recorders see it before it is attached.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from query_svc.days_leaves import slot_table

INCOMING = "incoming"
_IN_SLOT = "reshard_in_slot"
_OF_PARENT = re.compile(r"satisfies_hash_partition\('?\d+'?(::oid)?, ")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table with rows. `bounds`: FOR VALUES ..., empty when it is the whole slot; `checks`: its CHECK constraints by name."""

    name: str
    bounds: str
    checks: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SlotTables:
    """What a slot consists of. `key`: by what it is divided, as RANGE ("timestamp"); empty: it is one table."""

    slot: int
    key: str
    leaves: tuple[Leaf, ...]

    @property
    def all_names(self) -> list[str]:
        """Root first."""
        root = slot_table(self.slot)
        return [root, *(leaf.name for leaf in self.leaves if leaf.name != root)]


async def read_tables(connection: AsyncConnection, slot: int, schema: str = "public") -> SlotTables | None:
    """The slot as it is here: attached to sensor_readings (public), or on its way (incoming). None: it is not."""
    place = {"root": f"{schema}.{slot_table(slot)}"}
    root = (await connection.execute(text(_ROOT), place)).first()
    if root is None or (schema == "public" and not root.attached):
        return None
    rows = await connection.execute(text(_LEAVES), place)
    leaves = [Leaf(row.name, row.bounds if root.key else "", tuple(sorted(_checks(row.checks)))) for row in rows]
    return SlotTables(slot, root.key or "", tuple(leaves))


async def make_incoming(connection: AsyncConnection, slots: int, like: SlotTables) -> None:
    """Empty tables like these, beside sensor_readings; what was left of an earlier attempt is gone."""
    root = f"{INCOMING}.{slot_table(like.slot)}"
    await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {INCOMING}"))
    await drop_incoming(connection, like.slot)
    divided = f" PARTITION BY {like.key}" if like.key else ""
    await connection.execute(text(f"CREATE TABLE {root} (LIKE sensor_readings INCLUDING ALL){divided}"))
    # By this PostgreSQL knows that every row belongs to the slot, and attaches without a look at them.
    parent = (await connection.execute(text("SELECT CAST('sensor_readings' AS regclass)::oid"))).scalar_one()
    check = f"CHECK (satisfies_hash_partition({parent}::oid, {slots}, {like.slot}, sensor_id))"
    await connection.execute(text(f"ALTER TABLE {root} ADD CONSTRAINT {_IN_SLOT} {check}"))
    if like.key:
        await add_leaves(connection, like, like.leaves)


async def add_leaves(connection: AsyncConnection, like: SlotTables, leaves: Sequence[Leaf]) -> None:
    """Makes these leaves of a slot on its way, empty."""
    parent = (await connection.execute(text("SELECT CAST('sensor_readings' AS regclass)::oid"))).scalar_one()
    root = f"{INCOMING}.{slot_table(like.slot)}"
    for leaf in leaves:
        await connection.execute(text(f"CREATE TABLE {INCOMING}.{leaf.name} PARTITION OF {root} {leaf.bounds}"))
        for name, check in leaf.checks:
            here = _OF_PARENT.sub(f"satisfies_hash_partition({parent}::oid, ", check).removesuffix(" NOT VALID")
            await connection.execute(text(f"ALTER TABLE {INCOMING}.{leaf.name} ADD CONSTRAINT {name} {here}"))


async def drop_incoming(connection: AsyncConnection, slot: int) -> None:
    """Nothing of the slot is on its way on return."""
    await connection.execute(text(f"DROP TABLE IF EXISTS {INCOMING}.{slot_table(slot)}"))


async def attach(connection: AsyncConnection, slots: int, tables: SlotTables) -> None:
    """The tables on their way are the slot, without a look at their rows; readers and writers of others go on (SHARE UPDATE
    EXCLUSIVE on sensor_readings). Safe to repeat."""
    root = slot_table(tables.slot)
    for name in tables.all_names:
        await connection.execute(text(f"ALTER TABLE {INCOMING}.{name} SET SCHEMA public"))
    bounds = f"FOR VALUES WITH (MODULUS {slots}, REMAINDER {tables.slot})"
    await connection.execute(text(f"ALTER TABLE sensor_readings ATTACH PARTITION {root} {bounds}"))
    await connection.execute(text(f"ALTER TABLE {root} DROP CONSTRAINT {_IN_SLOT}"))


async def begin_detach(connection: AsyncConnection, slot: int) -> None:
    """The slot is no part of sensor_readings on return; needs a connection in autocommit. Waits for those who read or write any
    slot now, and lets others begin meanwhile. Safe to repeat, also after it was given up half-way."""
    root = (await connection.execute(text(_ROOT), {"root": f"public.{slot_table(slot)}"})).first()
    if root is not None and root.attached:
        how = "FINALIZE" if root.pending else "CONCURRENTLY"
        await connection.execute(text(f"ALTER TABLE sensor_readings DETACH PARTITION {slot_table(slot)} {how}"))


async def drop_detached(connection: AsyncConnection, slot: int) -> None:
    """The tables of a slot that is no part of sensor_readings are gone. Safe to repeat."""
    root = (await connection.execute(text(_ROOT), {"root": f"public.{slot_table(slot)}"})).first()
    if root is not None and not root.attached:
        await connection.execute(text(f"DROP TABLE {slot_table(slot)}"))


async def read_bytes(connection: AsyncConnection, slots: Sequence[int]) -> dict[int, int]:
    """Bytes on disk of each slot, with indexes; a slot that is not here is missing."""
    rows = await connection.execute(text(_BYTES), {"slots": [slot_table(slot) for slot in slots]})
    return {int(row.name.rpartition("_s")[2]): int(row.size) for row in rows}


def _checks(found: Sequence[Sequence[str]] | None) -> list[tuple[str, str]]:
    return [(name, check) for name, check in found or () if name != _IN_SLOT]


_ROOT = """
SELECT pg_get_partkeydef(c.oid) AS key, i.inhparent IS NOT NULL AS attached, coalesce(i.inhdetachpending, false) AS pending
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = CAST('sensor_readings' AS regclass)
WHERE c.oid = to_regclass(:root)
"""

_LEAVES = """
SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds,
       (SELECT array_agg(ARRAY[conname::text, pg_get_constraintdef(oid)] ORDER BY conname) FROM pg_constraint
        WHERE conrelid = c.oid AND contype = 'c' AND conislocal AND coninhcount = 0) AS checks
FROM pg_partition_tree(to_regclass(:root)) AS t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf
UNION ALL
SELECT c.relname, '', NULL FROM pg_class c WHERE c.oid = to_regclass(:root) AND NOT c.relispartition AND c.relkind = 'r'
ORDER BY 1
"""

_BYTES = """
SELECT c.relname AS name, (SELECT sum(pg_total_relation_size(t.relid)) FROM pg_partition_tree(c.oid) AS t) AS size
FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = CAST('sensor_readings' AS regclass)
WHERE c.relname = ANY(CAST(:slots AS text[]))
"""
