"""How is writing to a slot stopped without keeping recorders waiting for long, and how does it go on?"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.errors import FailedPrecondition, Unavailable
from mesh.ports import Clock
from mesh.shards import transaction

LOCK_WAITS_MS = (200, 200, 400, 400, 800, 800, *(1600,) * 10)
"""How long a lock is waited for, one try after the other: whoever comes meanwhile waits too, at most that long. Together longer
than the server lets a recorder that was stopped keep its slots (`hold` in mesh/shard_map.py)."""
BETWEEN_S = 0.1
_LOCK_TIMEOUT = "55P03"
_T = TypeVar("_T")


async def freeze(engine: AsyncEngine, slot: int, clock: Clock) -> None:
    """No recorder writes the slot from now on, and all that did have committed. Safe to repeat. Raises FailedPrecondition when
    the slot is not here, Unavailable when recorders keep it for longer than we wait.

    A recorder holds its slots' rows FOR SHARE. An UPDATE of the row would wait in vain: those who come later share the lock with
    those who have it. The lock on the table lets nobody past, and readers through.
    """

    async def stop(connection: AsyncConnection) -> None:
        await connection.execute(text("LOCK TABLE owned_slots IN EXCLUSIVE MODE"))
        await _set_writable(connection, slot, False)

    await patiently(engine, stop, clock, f"recorders hold slot {slot}")


async def thaw(engine: AsyncEngine, slot: int) -> None:
    """Recorders may write the slot. Safe to repeat. Raises FailedPrecondition when it is not here."""
    async with transaction(engine) as connection:
        await _set_writable(connection, slot, True)


async def _set_writable(connection: AsyncConnection, slot: int, writable: bool) -> None:
    changed = await connection.execute(text(_WRITABLE), {"slot": slot, "writable": writable})
    if changed.rowcount != 1:
        raise FailedPrecondition(
            f"slot {slot} is not in this shard, which the shard map says it is in: look at owned_slots there"
        )


async def patiently(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[_T]], clock: Clock, why: str) -> _T:
    """`work` in a transaction that waits for no lock for long, again and again. Raises Unavailable (LOCKED) at last."""
    for wait_ms in LOCK_WAITS_MS:
        try:
            async with transaction(engine) as connection:
                await connection.execute(text(f"SET LOCAL lock_timeout = {wait_ms}"))
                return await work(connection)
        except Unavailable as error:
            if not is_lock_timeout(error):
                raise
        await clock.sleep(BETWEEN_S)
    waited_s = sum(LOCK_WAITS_MS) / 1000
    raise Unavailable(f"{why} in {engine.url.database}: waited {waited_s:g} s for a lock; run it again", reason="LOCKED")


def is_lock_timeout(error: BaseException) -> bool:
    """Whether the database gave up waiting for a lock."""
    return getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) == _LOCK_TIMEOUT


_WRITABLE = "UPDATE owned_slots SET writable = :writable WHERE slot = :slot"
