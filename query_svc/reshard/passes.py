"""One pass over the leaves of a slot: everything that is there, or what is new since the pass before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.errors import Conflict, FailedPrecondition
from mesh.ports import Clock
from mesh.shard_map import slot_sql
from mesh.shards import transaction
from query_svc.days_leaves import slot_table
from query_svc.reshard.copying import LONG_STATEMENT, begin_snapshot, copy_leaf, make_follow_rows, must_be_near, take_in
from query_svc.reshard.journal import State
from query_svc.reshard.plan import Move
from query_svc.reshard.slot_tables import INCOMING, SlotTables, add_leaves, read_tables
from query_svc.reshard.throttle import Throttle

BEGINS_AGAIN = ("MARK_TOO_OLD", "DAYS_CHANGED")
"""Reasons of errors after which the move begins again from its first step."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What moves are made on. `told` is called with every piece of bytes copied."""

    slots: int
    engines: Mapping[int, AsyncEngine]
    throttle: Throttle
    clock: Clock
    told: Callable[[int], None]

    @property
    def in_slot(self) -> Callable[[int], str]:
        """SQL that is true for the rows of a table by sensor that are of this slot."""
        return lambda slot: f"{slot_sql(self.slots)} = {slot}"


async def copy_all(ground: Ground, move: Move, state: State) -> State:
    """The target has in `incoming` exactly what the source had at the mark."""
    source, target = ground.engines[move.source], ground.engines[move.target]
    async with transaction(source) as out, transaction(target) as back:
        mark = await begin_snapshot(out)
        tables = await tables_of(out, move)
        await back.execute(text(LONG_STATEMENT))
        await back.execute(text(f"TRUNCATE {INCOMING}.{slot_table(move.slot)}"))
        await _same_leaves(back, tables)
        rows = copied = 0
        for leaf in tables.leaves:
            more = await copy_leaf(out, back, leaf.name, None, ground.throttle, ground.told)
            rows, copied = rows + more[0], copied + more[1]
    return replace(state, mark=mark, row_count=rows, copied_bytes=copied)


async def copy_new(ground: Ground, move: Move, state: State) -> State:
    """The target has everything that the source had at the new mark."""
    source, target, root = ground.engines[move.source], ground.engines[move.target], slot_table(move.slot)
    async with transaction(source) as out, transaction(target) as back:
        mark = await begin_snapshot(out)
        await must_be_near(out, state.mark)
        tables = await tables_of(out, move)
        await back.execute(text(LONG_STATEMENT))
        await _same_leaves(back, tables)
        await make_follow_rows(back, root)
        copied = 0
        for leaf in tables.leaves:
            copied += (await copy_leaf(out, back, leaf.name, state.mark, ground.throttle, ground.told))[1]
        rows = await take_in(back, root)
    return replace(state, mark=mark, row_count=state.row_count + rows, copied_bytes=state.copied_bytes + copied)


async def tables_of(source: AsyncConnection, move: Move) -> SlotTables:
    """The slot as the source has it. Raises FailedPrecondition when it has not."""
    found = await read_tables(source, move.slot)
    if found is None:
        message = f"shard {move.source} has no table of slot {move.slot}, which the shard map says it has: look at it by hand"
        raise FailedPrecondition(message)
    return found


async def _same_leaves(target: AsyncConnection, like: SlotTables) -> None:
    """Days that were added at the source are at the target on return. Raises Conflict (DAYS_CHANGED) when one has left."""
    here = await read_tables(target, like.slot, INCOMING)
    known = {leaf.name: leaf.bounds for leaf in here.leaves} if here else {}
    wanted = {leaf.name: leaf.bounds for leaf in like.leaves}
    if here is None or here.key != like.key or any(wanted.get(name) != bounds for name, bounds in known.items()):
        raise Conflict(f"the days of slot {like.slot} are others than when its move began", reason="DAYS_CHANGED")
    await add_leaves(target, like, [leaf for leaf in like.leaves if leaf.name not in known])
