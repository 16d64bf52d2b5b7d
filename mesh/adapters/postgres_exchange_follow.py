"""How medium tasks reach every reader of the embedded Exchange: one short table, and a place in it for each reader."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

from mesh.adapters.postgres_connections import Connections
from mesh.errors import InvalidArgument

KEPT_TASKS = 1000
_POLL_S = 1.0

# The one row of medium_end is locked until the commit, so that numbers are seen in their order.
_PUBLISH = """
WITH moved AS (
    UPDATE exchange.medium_end SET last_id = last_id + 1 RETURNING last_id
), dropped AS (
    DELETE FROM exchange.medium_tasks WHERE medium_id <= (SELECT last_id FROM moved) - %s
)
INSERT INTO exchange.medium_tasks (medium_id, body) SELECT last_id, %b FROM moved
"""
_END = "SELECT last_id FROM exchange.medium_end"
_NEWEST = "SELECT medium_id, body FROM exchange.medium_tasks WHERE medium_id > %s ORDER BY medium_id DESC LIMIT %s"


async def publish_medium(database: Connections, body: bytes) -> None:
    """Every reader can have it on return."""
    await database.fetch(_PUBLISH, (KEPT_TASKS, body))


async def end_of_medium(database: Connections) -> int:
    """The number of the newest task, from which on a new reader reads."""
    ((last_id,),) = await database.fetch(_END)
    return int(last_id)


class Follower:
    """An endless iterator of bodies, in their order. Whoever is slow finds only the newest `limit` of those that wait."""

    def __init__(self, database: Connections, after_id: int, limit: int, news: asyncio.Event) -> None:
        if not 1 <= limit <= KEPT_TASKS:
            raise InvalidArgument(f"a reader's queue cannot hold {limit} tasks: 1 to {KEPT_TASKS}")
        self._database = database
        self._after_id = after_id
        self._waiting: deque[bytes] = deque(maxlen=limit)
        self._limit = limit
        self._news = news
        self._look = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Waits for a task. Raises Unavailable; may be called again then."""
        while True:
            if self._look or self._news.is_set():
                await self._gather()
            if self._waiting:
                return self._waiting.popleft()
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._news.wait()
            self._look = True

    async def _gather(self) -> None:
        self._news.clear()
        rows = await self._database.fetch(_NEWEST, (self._after_id, self._limit))
        self._look = False
        for medium_id, body in reversed(rows):
            self._waiting.append(body)
            self._after_id = medium_id
