"""How does a slot vanish from a shard that does not own it, while that one serves its other slots?"""

from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.errors import FailedPrecondition, Unavailable
from mesh.shards import transaction
from query_svc.reshard import slot_tables
from query_svc.reshard.beside import forget_beside, forget_seen
from query_svc.reshard.freezing import thaw
from query_svc.reshard.passes import Ground
from query_svc.reshard.plan import Move

LOCK_WAIT_MS = 5_000


async def put_back(ground: Ground, move: Move) -> None:
    """The slot is the source's alone, and written there, as before the move; only while it is not in the map of the target."""
    await clear_target(ground, move)
    await thaw(ground.engines[move.source], move.slot)


async def clear_target(ground: Ground, move: Move) -> None:
    """The target has nothing of the slot on return. Raises FailedPrecondition when it takes readings for it."""
    engine = ground.engines[move.target]
    async with transaction(engine) as connection:
        if (await connection.execute(text(_WRITABLE), {"slot": move.slot})).scalar_one_or_none():
            message = f"shard {move.target} writes slot {move.slot}, which the shard map says is of shard {move.source}"
            raise FailedPrecondition(f"{message}: look at owned_slots there, and delete the row if the map is right")
        await connection.execute(text("DELETE FROM owned_slots WHERE slot = :slot"), {"slot": move.slot})
        await forget_seen(connection, ground.in_slot(move.slot))
        await slot_tables.drop_incoming(connection, move.slot)
    await remove(engine, move.slot, ground.in_slot(move.slot))


async def remove(engine: AsyncEngine, slot: int, in_slot: str) -> None:
    """A shard that does not own the slot has nothing of it on return. Queries and recorders of other slots go on. Raises
    Unavailable when somebody reads there for long: try again later. Safe to repeat."""
    await _detach(engine, slot)
    async with transaction(engine) as connection:
        await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}"))
        await _must_not_own(connection, slot)
        await slot_tables.drop_detached(connection, slot)
        await forget_beside(connection, slot, in_slot)


async def _detach(engine: AsyncEngine, slot: int) -> None:
    """DETACH .. CONCURRENTLY wants a connection without a transaction."""
    try:
        async with engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
            await _must_not_own(connection, slot)
            await connection.execute(text(f"SET lock_timeout = {LOCK_WAIT_MS}"))
            try:
                await slot_tables.begin_detach(connection, slot)
            finally:
                await connection.execute(text("RESET lock_timeout"))
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        message = f"slot {slot} cannot leave database {engine.url.database} now: {getattr(error, 'orig', error)}"
        raise Unavailable(message, reason="LOCKED") from error


async def _must_not_own(connection: AsyncConnection, slot: int) -> None:
    if (await connection.execute(text(_WRITABLE), {"slot": slot})).first():
        raise FailedPrecondition(f"slot {slot} is owned here: nothing is dropped")


_WRITABLE = "SELECT writable FROM owned_slots WHERE slot = :slot"
