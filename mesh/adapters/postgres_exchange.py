"""The embedded Exchange: the port on tables of one PostgreSQL database, put together from its parts."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

from mesh.adapters.postgres_connections import Connections, connections, conninfo_of
from mesh.adapters.postgres_exchange_follow import Follower, end_of_medium, publish_medium
from mesh.adapters.postgres_exchange_schema import make_exchange
from mesh.adapters.postgres_exchange_take import Queue, Taker
from mesh.adapters.postgres_notices import Notices, listening
from mesh.errors import InvalidArgument, TooLarge, Unavailable
from mesh.ports import Clock, Delivery, Priority

BODY_LIMIT_BYTES = 4 * 2**20
ATTEMPT_LIMIT = 5
DEATH_LIMIT = 20
DEAD_LIMIT = 10_000
DEPTH_LIMIT = 100_000
_CHANNEL = "wq_exchange"
_DEPTH_CHECK_S = 1.0
_CONNECTIONS = 2

_PUBLISH = "INSERT INTO exchange.tasks (priority, severity, body) VALUES (%s, %s, %b)"
_DEPTH = "SELECT count(*) FROM (SELECT 1 FROM exchange.tasks WHERE priority = %s LIMIT %s) AS waiting"


class Bells:
    """Wakes those who wait for tasks of a priority, here and in other processes."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Event, Priority] = {}

    def hear(self, line: str) -> None:
        """A notice: the name of a priority, or empty for any."""
        for event, priority in self._waiting.items():
            if line in ("", priority.name):
                event.set()

    @contextmanager
    def waiting(self, priority: Priority) -> Iterator[asyncio.Event]:
        """An event that is set when there may be new tasks."""
        event = asyncio.Event()
        self._waiting[event] = priority
        try:
            yield event
        finally:
            del self._waiting[event]


class PostgresExchange:
    """The port Exchange. Made by `open_postgres_exchange`. Each priority has connections of its own, so HIGH never waits for
    LOW: at most 7 in all, and one more for each `take`."""

    def __init__(self, queues: Mapping[Priority, Queue], medium: Connections, notices: Notices, bells: Bells) -> None:
        self._queues = queues
        self._medium = medium
        self._notices = notices
        self._bells = bells
        self._is_full = dict.fromkeys(queues, False)
        self._published = asyncio.Event()
        self._published.set()

    async def publish(self, priority: Priority, body: bytes, severity: int = 0) -> None:
        """As the port says; a body has at most 4 MiB. A queue of 100,000 takes no more, within a second or two: Unavailable
        (QUEUE_FULL)."""
        if not 0 <= severity <= 5:
            raise InvalidArgument(f"a severity of {severity} does not exist: 0 to 5")
        if len(body) > BODY_LIMIT_BYTES:
            raise TooLarge(f"a task of {len(body)} bytes cannot be published: at most {BODY_LIMIT_BYTES}")
        if priority == Priority.MEDIUM:
            await publish_medium(self._medium, body)
        else:
            self._published.set()
            if self._is_full[priority]:
                raise Unavailable(
                    f"the queue of {priority.name} tasks holds {DEPTH_LIMIT}: its workers are behind", reason="QUEUE_FULL"
                )
            await self._queues[priority].database.fetch(_PUBLISH, (int(priority), severity, body))
        self._bells.hear(priority.name)
        self._notices.tell(priority.name, priority.name)

    @asynccontextmanager
    async def take(self, priority: Priority, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        if priority not in self._queues:
            raise InvalidArgument(f"{priority.name} tasks are followed, not taken: take HIGH or LOW")
        with self._bells.waiting(priority) as news:
            taker = Taker(self._queues[priority], prefetch, news)
            try:
                yield taker
            finally:
                await taker.leave()
                self._notices.tell(priority.name, priority.name)

    @asynccontextmanager
    async def follow(self, reader: str, limit: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """As the port says; `limit` is at most 1,000. The reader's name is only for adapters whose queues have names."""
        with self._bells.waiting(Priority.MEDIUM) as news:
            yield Follower(self._medium, await end_of_medium(self._medium), limit, news)

    async def measure(self) -> None:
        """Until cancelled: looks once a second how many tasks wait, while somebody publishes. Nobody waits for it."""
        while True:
            await self._published.wait()
            self._published.clear()
            for priority in self._queues:
                with suppress(Unavailable):
                    ((depth,),) = await self._medium.fetch(_DEPTH, (int(priority), DEPTH_LIMIT))
                    self._is_full[priority] = depth >= DEPTH_LIMIT
            await asyncio.sleep(_DEPTH_CHECK_S)


@asynccontextmanager
async def open_postgres_exchange(
    url: str,
    clock: Clock,
    *,
    attempt_limit: int = ATTEMPT_LIMIT,
    death_limit: int = DEATH_LIMIT,
    dead_limit: int = DEAD_LIMIT,
) -> AsyncIterator[PostgresExchange]:
    """The exchange in the database of this SQLAlchemy URL, its tables made when they are missing. A task becomes a dead letter
    after `attempt_limit` tries, or when `death_limit` workers died with it; `dead_limit`: dead letters that are kept, the
    newest. Raises Unavailable."""
    conninfo = conninfo_of(url)
    async with AsyncExitStack() as stack:
        high, medium, low = [await stack.enter_async_context(connections(conninfo, _CONNECTIONS)) for _ in range(3)]
        await make_exchange(medium)
        queues = {
            priority: Queue(database, conninfo, clock, priority, attempt_limit, death_limit, dead_limit)
            for priority, database in ((Priority.HIGH, high), (Priority.LOW, low))
        }
        bells = Bells()
        notices = Notices(conninfo, medium, _CHANNEL, bells.hear)
        await stack.enter_async_context(listening(notices))
        exchange = PostgresExchange(queues, medium, notices, bells)
        await stack.enter_async_context(_beside(exchange.measure()))
        yield exchange


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs it while the body runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
