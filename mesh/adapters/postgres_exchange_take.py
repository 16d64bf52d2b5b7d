"""How a worker takes tasks from a shared queue of the embedded Exchange, and settles them.

A task is a worker's while the worker's session lives: a killed one's tasks come again at once, without any timer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import psycopg
import structlog

from mesh.adapters.postgres_connections import Connections, Row, connect, fetch, is_alive
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Clock, Delivery, Priority

_log = structlog.get_logger()
POLL_S = 0.5
_SWEEP_S = 1.0
_LEAVE_S = 2.0
_PROBLEM_LIMIT = 1000
_TAKER_BASE = 0x57_52 << 40

# To take again what was taken is no harm. Plans are made while the queue is short and used when it is long: by index, always.
_LIKE_A_QUEUE = """
SELECT set_config(name, 'off', false)
FROM unnest(ARRAY['synchronous_commit', 'enable_seqscan', 'enable_bitmapscan', 'enable_sort']) AS name
"""
_JOIN = "SELECT id, pg_advisory_lock(%s + id) FROM nextval('exchange.taker_ids') AS id"
_TAKE = """
UPDATE exchange.tasks SET holder = %(holder)s WHERE task_id = (
    SELECT task_id FROM exchange.tasks WHERE holder IS NULL AND priority = %(priority)s AND not_before_us <= %(now_us)s
    ORDER BY severity DESC, task_id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING task_id, attempt + 1, deaths, body
"""
_FREE_THE_DEAD = """
UPDATE exchange.tasks SET holder = NULL, deaths = deaths + 1 WHERE holder IN (
    SELECT holder FROM (SELECT DISTINCT holder FROM exchange.tasks WHERE holder IS NOT NULL AND holder <> %s) AS others
    WHERE pg_try_advisory_xact_lock_shared(%s + holder))
"""
_FREE_MINE = "UPDATE exchange.tasks SET holder = NULL WHERE holder = %s"
# This does not wait for the disk: where the machine crashes in that moment the task comes again, which is no harm.
_QUICK = "set_config('synchronous_commit', 'off', true) IS NOT NULL"
_DONE = f"DELETE FROM exchange.tasks WHERE task_id = %s AND {_QUICK}"
_RETRY = """
UPDATE exchange.tasks SET holder = NULL, attempt = attempt + 1, not_before_us = %s WHERE task_id = %s AND holder = %s
"""
_BURY = """
WITH gone AS (
    DELETE FROM exchange.tasks WHERE task_id = %s AND holder = %s RETURNING task_id, priority, severity, attempt, body
), buried AS (
    INSERT INTO exchange.dead_tasks (task_id, priority, severity, attempt, buried_at_us, problem, body)
    SELECT task_id, priority, severity, attempt + 1, %s, %s, body FROM gone RETURNING dead_id
)
DELETE FROM exchange.dead_tasks WHERE dead_id <= (SELECT max(dead_id) FROM buried) - %s
"""


@dataclass(frozen=True, slots=True)
class Queue:
    """One shared queue. `attempt_limit`: tries that a task has; `death_limit`: workers that may go away without a word while they
    have it, tried or not; `dead_limit`: dead letters that are kept, the newest."""

    database: Connections
    conninfo: str
    clock: Clock
    priority: Priority
    attempt_limit: int
    death_limit: int
    dead_limit: int

    async def bury(self, task_id: int, holder: int, problem: str) -> None:
        _log.warning("task buried", task_id=task_id, priority=self.priority.name, problem=problem[:_PROBLEM_LIMIT])
        text = problem[:_PROBLEM_LIMIT].replace("\0", "")
        await self.database.fetch(_BURY, (task_id, holder, self.clock.now_us(), text, self.dead_limit))


class PostgresDelivery:
    """The port Delivery. Each way of settling may be repeated after Unavailable. Where the session that took the task broke
    meanwhile, another worker may have it: then `done` still ends it, and `retry` and `bury` leave it to the other."""

    def __init__(self, queue: Queue, task_id: int, holder: int, attempt: int, body: bytes, settled: asyncio.Semaphore) -> None:
        self._queue = queue
        self._task_id = task_id
        self._holder = holder
        self._attempt = attempt
        self._body = body
        self._free: asyncio.Semaphore | None = settled

    @property
    def body(self) -> bytes:
        return self._body

    @property
    def attempt(self) -> int:
        return self._attempt

    async def done(self) -> None:
        await self._queue.database.fetch(_DONE, (self._task_id,))
        self._settled()

    async def retry(self, delay_s: float) -> None:
        if self._attempt >= self._queue.attempt_limit:
            await self.bury(f"tried {self._attempt} times")
            return
        not_before_us = self._queue.clock.now_us() + round(delay_s * 1_000_000)
        await self._queue.database.fetch(_RETRY, (not_before_us, self._task_id, self._holder))
        self._settled()

    async def bury(self, problem: str) -> None:
        await self._queue.bury(self._task_id, self._holder, problem)
        self._settled()

    def _settled(self) -> None:
        if self._free is not None:
            self._free.release()
            self._free = None


class Taker:
    """An endless iterator of deliveries. For one task at a time; the deliveries may be settled by any."""

    def __init__(self, queue: Queue, prefetch: int, news: asyncio.Event) -> None:
        if prefetch < 1:
            raise InvalidArgument(f"a prefetch of {prefetch} takes nothing: at least 1")
        self._queue = queue
        self._free = asyncio.Semaphore(prefetch)
        self._news = news
        self._session: psycopg.AsyncConnection[Row] | None = None
        self._holder = 0
        self._sweep_at_s = 0.0

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        """Waits for a task, and for room where `prefetch` are unsettled. Raises Unavailable; may be called again then."""
        await self._free.acquire()
        try:
            while True:
                self._news.clear()
                if (delivery := await self._take()) is not None:
                    return delivery
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._news.wait()
        except BaseException:
            self._free.release()
            raise

    async def leave(self) -> None:
        """What is unsettled comes again, to others, and nothing of it is counted; at most 2 s."""
        session, self._session = self._session, None
        if session is None:
            return
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self._queue.database.fetch(_FREE_MINE, (self._holder,))  # ours may be broken, by being cancelled
        await session.close()

    async def _take(self) -> Delivery | None:
        session = await self._living_session()
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._sweep_at_s:
            self._sweep_at_s = now_s + _SWEEP_S
            await fetch(session, _FREE_THE_DEAD, (self._holder, _TAKER_BASE))
        wanted = {"holder": self._holder, "priority": int(self._queue.priority), "now_us": self._queue.clock.now_us()}
        while rows := await fetch(session, _TAKE, wanted):
            ((task_id, attempt, deaths, body),) = rows
            if deaths < self._queue.death_limit:
                return PostgresDelivery(self._queue, task_id, self._holder, attempt, body, self._free)
            await self._queue.bury(task_id, self._holder, f"its worker died {deaths} times")
        return None

    async def _living_session(self) -> psycopg.AsyncConnection[Row]:
        """A session that shows that we live. Losing it between taking and settling costs a second delivery, nothing else."""
        if self._session is None or not is_alive(self._session):
            if self._session is not None:
                await self._session.close()
            self._session = None
            session = await connect(self._queue.conninfo)
            await fetch(session, _LIKE_A_QUEUE)
            ((self._holder, _),) = await fetch(session, _JOIN, (_TAKER_BASE,))
            self._session = session
        return self._session
