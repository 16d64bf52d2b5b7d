"""How are many readings streamed in order from all shards, in bounded memory, to a client that may be slow?"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing

import numpy as np

from mesh.clock import SystemClock
from mesh.errors import Unavailable
from mesh.shards import AnyShards, Shards, first_error
from query_svc.moved import AGAIN_S, MOST_WAIT_S, MOVED
from query_svc.selection import Selection, shards_of
from query_svc.slices import Place, Slice, merged, read_slice

FRAME_READINGS = 20_000
LEAST_SLICE = 2_000
MOST_WAITING_READINGS = 400_000
"""Readings read ahead for one stream, over all shards: some 50 MB with their copies."""

Write = Callable[[Slice], Awaitable[None]]
_CLOCK = SystemClock()


async def stream_readings(shards: AnyShards, selection: Selection, after: Place | None, write: Write) -> None:
    """Writes every reading behind `after` that is there when its turn comes, by sensor and time, in frames of up to 20,000.
    Reads one round ahead of `write` and no further; while `write` waits, no database connection is held."""
    async with aclosing(_rounds(shards, selection, after)) as rounds:
        found: Slice | None = await anext(rounds, None)
        while found is not None:
            try:
                async with asyncio.TaskGroup() as tasks:
                    coming = tasks.create_task(_next(rounds))
                    for start in range(0, len(found), FRAME_READINGS):
                        await write(found.cut(start, start + FRAME_READINGS))
            except BaseExceptionGroup as errors:
                raise first_error(errors) from errors
            found = coming.result()


async def _next(rounds: AsyncIterator[Slice]) -> Slice | None:
    return await anext(rounds, None)


async def _rounds(live: AnyShards, selection: Selection, after: Place | None) -> AsyncGenerator[Slice]:
    """As `_rounds_of`; begins anew, behind what was passed on, when slots were moved."""
    moved_at_us = None
    while True:
        shards = live.now
        try:
            async with aclosing(_rounds_of(shards, selection, after)) as rounds:
                async for found in rounds:
                    after, moved_at_us = found.place(len(found) - 1), None
                    yield found
            return
        except Unavailable as error:
            now_us = _CLOCK.now_us()
            moved_at_us = moved_at_us or now_us
            if error.reason != MOVED or now_us - moved_at_us > MOST_WAIT_S * 1_000_000:
                raise
        if (await live.newer()).version == shards.version:
            await _CLOCK.sleep(AGAIN_S)
        else:
            moved_at_us = None


async def _rounds_of(shards: Shards, selection: Selection, after: Place | None) -> AsyncGenerator[Slice]:
    """Ordered runs of readings. Each round asks all shards of which less than a slice is held, at once, and passes on what lies
    before the end of every slice: behind that a shard may still have something to come."""
    asked = shards_of(shards, selection.sensors)
    limit = max(LEAST_SLICE, MOST_WAITING_READINGS // (6 * max(len(asked), 1)))
    cursor: dict[int, Place | None] = dict.fromkeys(asked, after)
    held: dict[int, Slice] = {}

    async def refill(shard: int, _: object) -> Slice:
        return await read_slice(shards, shard, selection, cursor[shard], limit)

    while cursor or held:
        low = [shard for shard in cursor if shard not in held or len(held[shard]) < limit]
        for shard, found in zip(low, await shards.gather(refill, low), strict=True):
            if len(found):
                held[shard] = merged([held[shard], found]) if shard in held else found
            if len(found) < limit:
                del cursor[shard]
            else:
                cursor[shard] = found.place(len(found) - 1)
        ends = [place for place in cursor.values() if place is not None]
        ready, held = _split(held, min(ends, default=None))
        if len(ready):
            yield ready


def _split(held: Mapping[int, Slice], end: Place | None) -> tuple[Slice, dict[int, Slice]]:
    """What is not behind `end` (None: all), merged, and the rest of each shard."""
    ready, rest = [], {}
    for shard, found in held.items():
        count = len(found) if end is None else _count_until(found, end)
        ready.append(found.cut(0, count))
        if count < len(found):
            rest[shard] = found.cut(count, len(found))
    return merged(ready), rest


def _count_until(found: Slice, end: Place) -> int:
    first, last = (
        np.searchsorted(found.readings.sensor_id, end.sensor_id, "left"),
        np.searchsorted(found.readings.sensor_id, end.sensor_id, "right"),
    )
    within = np.searchsorted(found.readings.measured_at_us[first:last], end.measured_at_us, "right")
    return int(first + within)
