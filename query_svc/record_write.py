"""How does a flush get into the shards? One transaction each, all at once; one that is away keeps no other waiting for long."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import ledger, positions
from mesh.errors import Unavailable
from mesh.shard_map import hold
from mesh.shards import transaction
from query_svc.record_flush import Flush
from query_svc.rows import STORED
from query_svc.seen import Seen
from query_svc.store import keep_losers, store


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """What a flush did not reach: slots that are frozen or not where the map says, and by shard why it is away."""

    slots: NDArray[np.int64]
    away: Mapping[int, str]


@dataclass(slots=True)
class _Shard:
    seen: Seen = field(default_factory=Seen)
    expect_known: bool = False


class Write:
    """Writes flushes, of several partitions too; what it remembers of the shards is shared by them."""

    def __init__(self, stage: str, log_id: str) -> None:
        self._stage = stage
        self._log_id = log_id
        self._shards: dict[int, _Shard] = defaultdict(_Shard)

    async def write(self, flush: Flush, within_s: float) -> Left:
        """The flush is in every shard on return, and its `had` tells so, except for the slots that are left; those are no longer
        live. A shard has `within_s`. Raises PositionLost when another worker has taken over."""
        had = flush.had
        gone: list[NDArray[np.int64]] = []
        away: dict[int, str] = {}

        async def write(shard: int, engine: AsyncEngine) -> None:
            owned = np.flatnonzero((flush.shards.owner == shard) & flush.live & (had.offset < flush.new.offset))
            slots = owned[had.live[owned]]
            if not len(slots):
                return
            try:
                held = await self._write_shard(shard, engine, flush, slots, whole=len(slots) == len(owned), within_s=within_s)
            except Unavailable as error:
                away[shard] = error.message
                return
            had.set(held, *flush.new)
            if len(held) < len(slots):
                gone.append(np.setdiff1d(slots, held))

        await flush.shards.gather(write, flush.shards.owning)
        gone += [np.array(flush.shards.slots_of_shard(shard)) for shard in away]
        left = np.concatenate([np.empty(0, np.int64), *gone])
        had.live[left] = False
        return Left(left, away)

    async def _write_shard(
        self, shard: int, engine: AsyncEngine, flush: Flush, slots: NDArray[np.int64], *, whole: bool, within_s: float
    ) -> NDArray[np.int64]:
        """One transaction; the slots whose part is written. `whole`: they are all that the flush has rows for. What is remembered
        beside the database is remembered only once it is committed."""
        rows, known = flush.parts[shard], self._shards[shard]
        async with transaction(engine, within_s) as connection:
            here = await hold(connection, slots.tolist(), within_s)
            if not here:
                return slots[:0]
            held = slots if len(here) == len(slots) else np.array(sorted(here))
            expected = flush.had.positions(held.tolist())
            await positions.move(connection, self._stage, self._log_id, flush.partition, expected, flush.new)
            if not whole or len(held) < len(slots):
                rows = rows.of_slots(here, flush.shards.slots)
            if not len(rows):
                return held
            outcome = await store(connection, rows, known.expect_known)
            await keep_losers(connection, rows, outcome, self._log_id, flush.partition)
            entered = await known.seen.enter(connection, rows, outcome)
            await ledger.add(connection, rows.counts(outcome))
        known.seen.remember(entered)
        known.expect_known = bool((outcome[rows.head] != STORED).any())
        return held
