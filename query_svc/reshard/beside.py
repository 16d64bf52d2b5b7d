"""What goes with a slot besides its readings: the positions of all stages, and the sensors that were seen.

A query over all sensors of a shard takes the sensors of every slot that the shard has (query_svc/selection.py). So these come and
go in the transaction in which the slot does, and wait in `incoming` until then.
"""

from collections.abc import Callable

from psycopg.sql import SQL
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import Conflict
from query_svc.reshard.checksum import sum_of
from query_svc.reshard.copying import LONG_STATEMENT, columns_of, copy_query
from query_svc.reshard.plan import Move
from query_svc.reshard.slot_tables import INCOMING
from query_svc.reshard.throttle import Throttle


async def copy_beside(
    source: AsyncConnection, target: AsyncConnection, slot: int, in_slot: str, throttle: Throttle, told: Callable[[int], None]
) -> int:
    """The target has exactly what the source has, where nobody looks at it yet; bytes."""
    await forget_beside(target, slot, in_slot)
    await target.execute(text(f"CREATE TABLE {_waiting(slot)} (LIKE sensors_seen INCLUDING ALL)"))
    copied = 0
    for table, where, there, _ in _tables(slot, in_slot):
        columns = await columns_of(source, table)
        listed = ", ".join(f'"{name}"' for name in columns)
        query = SQL(f"SELECT {listed} FROM public.{table} WHERE {where}")
        copied += (await copy_query(source, query, target, SQL(there), columns, throttle, told))[1]
    return copied


async def verify_beside(source: AsyncConnection, target: AsyncConnection, move: Move, in_slot: str) -> None:
    """Raises Conflict (SLOT_DIFFERS) unless both have the same."""
    for table, where, there, where_there in _tables(move.slot, in_slot):
        columns = await columns_of(source, table)
        ours = await sum_of(source, f"public.{table}", columns, where)
        theirs = await sum_of(target, there, columns, where_there)
        if ours != theirs:
            message = f"{table} of slot {move.slot} differ: {ours} at shard {move.source}, {theirs} at shard {move.target}"
            raise Conflict(f"{message}; shard {move.source} keeps it", reason="SLOT_DIFFERS")


async def enter_seen(target: AsyncConnection, slot: int) -> None:
    """The sensors that waited are entered, in the transaction in which the target comes to have the slot."""
    await target.execute(text(f"INSERT INTO sensors_seen SELECT * FROM {_waiting(slot)} ON CONFLICT DO NOTHING"))
    await target.execute(text(f"DROP TABLE {_waiting(slot)}"))


async def forget_seen(connection: AsyncConnection, in_slot: str) -> None:
    """The sensors of the slot are gone, in the transaction in which the shard ceases to have it."""
    await connection.execute(text(LONG_STATEMENT))
    await connection.execute(text(f"DELETE FROM sensors_seen WHERE {in_slot}"))


async def forget_beside(connection: AsyncConnection, slot: int, in_slot: str) -> None:
    """A shard that does not own the slot has none of it on return."""
    await forget_seen(connection, in_slot)
    await connection.execute(text(f"DROP TABLE IF EXISTS {_waiting(slot)}"))
    await connection.execute(text("DELETE FROM positions WHERE slot = :slot"), {"slot": slot})


def _waiting(slot: int) -> str:
    return f"{INCOMING}.sensors_seen_s{slot}"


def _tables(slot: int, in_slot: str) -> tuple[tuple[str, str, str, str], ...]:
    """Table and rows at the source, table and rows at the target."""
    of_slot = f"slot = {slot}"
    return ("positions", of_slot, "public.positions", of_slot), ("sensors_seen", in_slot, _waiting(slot), "true")
