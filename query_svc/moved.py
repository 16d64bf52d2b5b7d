"""How does a read go on when a slot that it asks for is just being moved to another shard?"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.errors import Unavailable
from mesh.ports import Clock
from mesh.shards import AnyShards, Shards

MOVED = "SHARD_MOVED"
MOST_WAIT_S = 5.0
"""Between two shards a slot is nobody's for some milliseconds (see mesh/shard_map.py)."""
AGAIN_S = 0.02
_T = TypeVar("_T")


async def read_where_it_is(shards: AnyShards, read: Callable[[Shards], Awaitable[_T]], clock: Clock) -> _T:
    """`read` by the map as it is known here, and by a newer one when a shard says that it does not have a slot. Raises what
    `read` raises, Unavailable (SHARD_MOVED) after 5 s without a newer map."""
    deadline_us: int | None = None
    while True:
        known = shards.now
        try:
            return await read(known)
        except Unavailable as error:
            now_us = clock.now_us()
            deadline_us = deadline_us or now_us + round(MOST_WAIT_S * 1_000_000)
            if error.reason != MOVED or now_us >= deadline_us:
                raise
        if (await shards.newer()).version == known.version:
            await clock.sleep(AGAIN_S)
        else:  # a long question may meet one move after the other
            deadline_us = None
