"""How one process hears of what others append to the embedded Log: notifications, and a slow poll where they fail."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress

import psycopg

from mesh.adapters.postgres_connections import Connections, Row, connect, fetch, unavailable
from mesh.adapters.postgres_log_tips import Tips
from mesh.errors import Unavailable
from mesh.ports import Partition

CHANNEL = "wq_log"
_POLL_S = 1.0
_RETRY_S = 0.5
_NEXT_OFFSETS = "SELECT topic, number, next_offset FROM log.partitions"


async def read_next_offsets(database: Connections) -> dict[Partition, int]:
    """The next offset of every partition, now."""
    return {Partition(topic, number): next_offset for topic, number, next_offset in await database.fetch(_NEXT_OFFSETS)}


async def announce(database: Connections, text: str = "") -> None:
    """Tells all processes: `topic number next_offset` a line where there are new records, empty where members came or went."""
    with suppress(Unavailable):  # the poll makes up for it
        await database.fetch("SELECT pg_notify(%s, %s)", (CHANNEL, text))


class Announcer:
    """Tells the other processes of our appends, apart from the commits (a notifying commit waits for every other one)."""

    def __init__(self, database: Connections) -> None:
        self._database = database
        self._news: dict[Partition, int] = {}
        self._come = asyncio.Event()

    def moved(self, next_offset: Mapping[Partition, int]) -> None:
        self._news.update(next_offset)
        self._come.set()

    async def announce(self) -> None:
        """Until cancelled; what comes while one message is on its way goes into the next one."""
        while True:
            await self._come.wait()
            self._come.clear()
            news, self._news = self._news, {}
            await announce(self._database, "\n".join(f"{p.topic} {p.number} {n}" for p, n in news.items()))


async def _listen(conninfo: str, tips: Tips) -> None:
    while True:
        with suppress(Unavailable):
            await _hear(await connect(conninfo), tips)
        await asyncio.sleep(_RETRY_S)


async def _hear(connection: psycopg.AsyncConnection[Row], tips: Tips) -> None:
    try:
        await fetch(connection, f"LISTEN {CHANNEL}")
        tips.change_members()
        async with aclosing(connection.notifies()) as notices:
            async for notice in notices:
                words = [line.split() for line in notice.payload.splitlines()]
                tips.moved({Partition(topic, int(number)): int(offset) for topic, number, offset in words})
                if not words:
                    tips.change_members()
    except psycopg.Error as error:
        raise unavailable(error) from error
    finally:
        await connection.close()


async def _poll(database: Connections, tips: Tips) -> None:
    while True:
        await asyncio.sleep(_POLL_S)
        with suppress(Unavailable):
            tips.moved(await read_next_offsets(database))


@asynccontextmanager
async def listening(conninfo: str, database: Connections, tips: Tips, announcer: Announcer) -> AsyncIterator[None]:
    """`tips` hears of all appends, and the others of ours, while the body runs."""
    tasks = [asyncio.create_task(_listen(conninfo, tips)), asyncio.create_task(_poll(database, tips))]
    tasks.append(asyncio.create_task(announcer.announce()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
