"""What is done to one slot, step by step: the list STEPS, in which each step may be done again.

At every moment some shard answers for the slot, and the map says so: until it is `mapped` the source does, whose rows do not
change once it is `frozen`; the target has the same rows when it begins to answer, `attached`, and takes no others before it is
`opened`, when the source answers no more. So between any two steps a reader with any version of the map gets what is right, or is
told to ask by a newer one (SHARD_MOVED), and a recorder writes at one place or at none.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import Conflict
from mesh.shards import transaction
from query_svc.days_leaves import slot_table
from query_svc.reshard import slot_tables
from query_svc.reshard.beside import copy_beside, enter_seen, forget_seen, verify_beside
from query_svc.reshard.checksum import sums_of_both
from query_svc.reshard.copying import begin_snapshot
from query_svc.reshard.freezing import freeze, patiently, thaw
from query_svc.reshard.journal import State
from query_svc.reshard.passes import Ground, copy_all, copy_new, tables_of
from query_svc.reshard.plan import Move
from query_svc.reshard.removal import clear_target, remove
from query_svc.reshard.slot_tables import INCOMING, read_tables

FEW_ROWS = 2_000
MOST_PASSES = 8


@dataclass(frozen=True, slots=True)
class Step:
    """`name`: what holds afterwards. `do`: makes it so, and gives the state with what is known since. `maps`: the journal puts
    the slot into a new version of the map when it notes this step."""

    name: str
    do: Callable[[Ground, Move, State], Awaitable[State]]
    maps: bool = False


async def prepare(ground: Ground, move: Move, state: State) -> State:
    """The target has empty tables like those of the source, which belong to nobody."""
    async with transaction(ground.engines[move.source]) as connection:
        like = await tables_of(connection, move)
    await clear_target(ground, move)
    async with transaction(ground.engines[move.target]) as connection:
        await slot_tables.make_incoming(connection, ground.slots, like)
    return state


async def copy(ground: Ground, move: Move, state: State) -> State:
    """The target has what the source had at a moment."""
    return await copy_all(ground, move, state)


async def follow(ground: Ground, move: Move, state: State) -> State:
    """The target has what the source had a little while ago."""
    for _ in range(MOST_PASSES):
        before = state.row_count
        state = await copy_new(ground, move, state)
        if state.row_count - before <= FEW_ROWS:
            break
    async with transaction(ground.engines[move.target]) as connection:
        await connection.execute(text(f"ANALYZE {INCOMING}.{slot_table(move.slot)}"))
    return state


async def stop_writing(ground: Ground, move: Move, state: State) -> State:
    """The source takes no more readings of the slot; recorders skip it and go on with the others."""
    await freeze(ground.engines[move.source], move.slot, ground.clock)
    return replace(state, freeze_us=ground.clock.now_us())


async def complete(ground: Ground, move: Move, state: State) -> State:
    """The target has every row of the slot, its positions, and its sensors seen."""
    state = await copy_new(ground, move, state)
    source, target = ground.engines[move.source], ground.engines[move.target]
    async with transaction(source) as out, transaction(target) as back:
        await begin_snapshot(out)
        copied = await copy_beside(out, back, move.slot, ground.in_slot(move.slot), ground.throttle, ground.told)
    return replace(state, copied_bytes=state.copied_bytes + copied)


async def verify(ground: Ground, move: Move, state: State) -> State:
    """Count and checksum over all columns are the same at both. Raises Conflict (SLOT_DIFFERS) when they are not."""
    root = slot_table(move.slot)
    async with transaction(ground.engines[move.source]) as out, transaction(ground.engines[move.target]) as back:
        here, there = await sums_of_both(out, back, (root, f"{INCOMING}.{root}"), "true")
        if here != there:
            counted = f"{here.rows} rows with checksum {here.checksum}", f"{there.rows} with {there.checksum}"
            message = f"slot {move.slot} differs: shard {move.source} has {counted[0]}, shard {move.target} {counted[1]}"
            raise Conflict(f"{message}; shard {move.source} keeps it", reason="SLOT_DIFFERS")
        await verify_beside(out, back, move, ground.in_slot(move.slot))
    return replace(state, row_count=here.rows, checksum=here.checksum)


async def attach(ground: Ground, move: Move, state: State) -> State:
    """The target answers for the slot too, with the same, and takes nothing for it yet."""

    async def join(connection: AsyncConnection) -> None:
        tables = await read_tables(connection, move.slot, INCOMING)
        if tables is not None:
            await slot_tables.attach(connection, ground.slots, tables)
            await enter_seen(connection, move.slot)
        await connection.execute(text(_OWN), {"slot": move.slot})

    await patiently(ground.engines[move.target], join, ground.clock, f"slot {move.slot} cannot be attached")
    return replace(state, cut_us=ground.clock.now_us())


async def put_into_map(ground: Ground, move: Move, state: State) -> State:
    """The map says that the slot is the target's: from here on there is no way back, only on. Raises Conflict (SLOT_DIFFERS) when
    somebody let it be written at the source since it was verified."""
    async with transaction(ground.engines[move.source]) as connection:
        await _must_be_frozen(connection, move)
    return state


async def release(ground: Ground, move: Move, state: State) -> State:
    """The source does not answer for the slot any more: who asks it by an older map is told so."""
    async with transaction(ground.engines[move.source]) as connection:
        await connection.execute(text("DELETE FROM owned_slots WHERE slot = :slot"), {"slot": move.slot})
        await forget_seen(connection, ground.in_slot(move.slot))
    return state


async def start_writing(ground: Ground, move: Move, state: State) -> State:
    """The target takes readings for the slot; recorders go on from the positions that came with it."""
    await thaw(ground.engines[move.target], move.slot)
    now_us = ground.clock.now_us()
    return replace(state, freeze_us=max(0, now_us - state.freeze_us), cut_us=max(0, now_us - state.cut_us))


async def drop(ground: Ground, move: Move, state: State) -> State:
    """The source has nothing of the slot any more. Raises Unavailable (LOCKED) while somebody reads there for long."""
    await remove(ground.engines[move.source], move.slot, ground.in_slot(move.slot))
    return state


STEPS = (
    Step("prepared", prepare),
    Step("copied", copy),
    Step("followed", follow),
    Step("frozen", stop_writing),
    Step("completed", complete),
    Step("verified", verify),
    Step("attached", attach),
    Step("mapped", put_into_map, maps=True),
    Step("released", release),
    Step("opened", start_writing),
    Step("dropped", drop),
)
NAMES = tuple(step.name for step in STEPS)


def is_past(step: str, other: str) -> bool:
    """Whether `other` was done when `step` was done last."""
    return step in NAMES and NAMES.index(step) >= NAMES.index(other)


async def _must_be_frozen(source: AsyncConnection, move: Move) -> None:
    if (await source.execute(text(_WRITABLE), {"slot": move.slot})).scalar_one_or_none() is not False:
        message = f"slot {move.slot} is written at shard {move.source} although it was stopped there"
        raise Conflict(f"{message}; shard {move.source} keeps it", reason="SLOT_DIFFERS")


_WRITABLE = "SELECT writable FROM owned_slots WHERE slot = :slot"

_OWN = """
INSERT INTO owned_slots (slot, writable) VALUES (:slot, false) ON CONFLICT (slot) DO UPDATE SET writable = false
"""
