"""How processes on one PostgreSQL database tell each other of news: short lines over one channel, MAYBE lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import psycopg

from mesh.adapters.postgres_connections import Connections, Row, connect, fetch, translated
from mesh.errors import Unavailable

_RETRY_S = 0.5
_PAYLOAD_LINES = 100

# A notice is worth nothing after a crash, so nobody waits for the disk.
_TELL = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"


class Notices:
    """`hear` gets each line told by anyone (also by us), and an empty one when some may have been missed.

    Telling is apart from the commits that it tells of: a commit that notifies waits for every other one that does.
    """

    def __init__(self, conninfo: str, database: Connections, channel: str, hear: Callable[[str], None]) -> None:
        self._conninfo = conninfo
        self._database = database
        self._channel = channel
        self._hear = hear
        self._news: dict[str, str] = {}
        self._come = asyncio.Event()

    def tell(self, about: str, line: str) -> None:
        """Soon; does not wait. A later line about the same thing takes the place of one that has not gone yet."""
        self._news[about] = line
        self._come.set()

    async def send(self) -> None:
        """Until cancelled; what comes while one message is on its way goes into the next one."""
        while True:
            await self._come.wait()
            lines = [self._news.pop(about) for about in list(self._news)[:_PAYLOAD_LINES]]
            if not self._news:
                self._come.clear()
            with suppress(Unavailable):
                await self._database.fetch(_TELL, (self._channel, "\n".join(lines)))

    async def listen(self) -> None:
        """Until cancelled; comes back after the connection broke."""
        while True:
            with suppress(Unavailable):
                await self._listen(await connect(self._conninfo))
            await asyncio.sleep(_RETRY_S)

    async def _listen(self, connection: psycopg.AsyncConnection[Row]) -> None:
        try:
            await fetch(connection, f"LISTEN {self._channel}")
            self._hear("")
            async with aclosing(connection.notifies()) as notices:
                async for notice in notices:
                    for line in notice.payload.splitlines():
                        self._hear(line)
        except psycopg.Error as error:
            raise translated(error) from error
        finally:
            await connection.close()


@asynccontextmanager
async def listening(notices: Notices) -> AsyncIterator[None]:
    """Hears and tells while the body runs."""
    tasks = [asyncio.create_task(notices.listen()), asyncio.create_task(notices.send())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
