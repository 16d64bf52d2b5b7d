"""How records get into the embedded Log: one writer gathers what is waiting and commits it in groups."""

import asyncio
import json
from asyncio import Future
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog

from mesh.adapters.postgres_connections import Row, connect, fetch
from mesh.adapters.postgres_log_listen import tell_moved
from mesh.adapters.postgres_log_tips import Tail, Tips
from mesh.adapters.postgres_notices import Notices
from mesh.errors import Fault, TooLarge, Unavailable
from mesh.ports import Clock, Partition, Record, Stored

_log = structlog.get_logger()
GROUP_RECORDS = 64
GROUP_BYTES = 4 * 2**20
BUFFER_BYTES = 16 * 2**20
RECORD_LIMIT_BYTES = 8 * 2**20
UNTRIED_LIMIT_S = 20.0  # with the 10 s that a transaction may take, nothing is durable later than 30 s after the call
_CLOSE_S = 5.0
_OVERHEAD_BYTES = 200

# One statement is one transaction and one round trip. The partitions' rows are locked in one order, so writers of several
# processes cannot block one another, and until the commit: the order of offsets is the order of commits.
_APPEND = """
WITH given AS (
    SELECT topic, number, count, g FROM unnest(%(topics)s::text[], %(numbers)s::int[], %(counts)s::int[])
    WITH ORDINALITY AS given (topic, number, count, g)
), locked AS MATERIALIZED (
    SELECT topic, number, count, g FROM log.partitions JOIN given USING (topic, number)
    ORDER BY topic, number FOR UPDATE OF partitions
), moved AS (
    UPDATE log.partitions p SET next_offset = p.next_offset + locked.count FROM locked
    WHERE p.topic = locked.topic AND p.number = locked.number
    RETURNING p.topic, p.number, locked.g, p.next_offset - locked.count AS first
), stored AS (
    INSERT INTO log.records (topic, number, "offset", appended_at_us, headers, value)
    SELECT moved.topic, moved.number, moved.first + r.place, %(now_us)s, r.headers, r.value
    FROM unnest(%(of)s::int[], %(places)s::int[], %(headers)b::text[], %(values)b::bytea[]) AS r (of, place, headers, value)
    JOIN moved ON moved.g = r.of
)
SELECT g, first FROM moved
"""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record in the queue; `called_s`: when its append was called, by the loop's clock."""

    partition: Partition
    record: Record
    called_s: float
    durable: Future[int]

    @property
    def size_bytes(self) -> int:
        return len(self.record.value) + _OVERHEAD_BYTES

    def fail(self, problem: str) -> None:
        if not self.durable.done():
            self.durable.set_exception(Unavailable(problem))
            self.durable.exception()  # whoever does not look at it shall not be told by the loop


class Writer:
    """The queue of appends and the one who empties it. `write` runs until cancelled."""

    def __init__(self, conninfo: str, clock: Clock, tips: Tips, tail: Tail, notices: Notices) -> None:
        self._conninfo = conninfo
        self._clock = clock
        self._tips = tips
        self._tail = tail
        self._notices = notices
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._emptied = asyncio.Event()
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._closed = False
        self._failures: Counter[Partition] = Counter()
        self._failing = False

    async def put(self, partition: Partition, record: Record) -> Future[int]:
        """As `Log.append`. Callers are let in one by one, in the order of their calls, while the buffer is full."""
        if len(record.value) > RECORD_LIMIT_BYTES:
            raise TooLarge(f"a record of {len(record.value)} bytes cannot be logged: at most {RECORD_LIMIT_BYTES}")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(partition, record, loop.time(), loop.create_future())
        failures = self._failures[partition]
        try:
            async with asyncio.timeout(UNTRIED_LIMIT_S), self._turn:
                while self._bytes and self._bytes + waiting.size_bytes > BUFFER_BYTES:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            raise Unavailable(f"the log took no records for {UNTRIED_LIMIT_S:.0f} s") from None
        if self._closed:
            raise Unavailable("this log is closed")
        if failures != self._failures[partition]:
            raise Unavailable("a record before this one could not be written")
        self._queue.append(waiting)
        self._bytes += waiting.size_bytes
        self._changed.set()
        return waiting.durable

    async def write(self) -> None:
        """Commits group after group. A failed one fails all that wait behind it for its partitions, and the work goes on."""
        try:
            while True:
                while not self._queue:
                    self._changed.clear()
                    await self._changed.wait()
                group = self._take_group()
                try:
                    if group:
                        await self._commit(group)
                except (Unavailable, Fault) as error:
                    if not self._failing:  # once, not for every gateway that tries again
                        _log.warning("log append failed", records=len(group), error=str(error))
                    self._failing = True
                    self._fail(group, str(error))
                except BaseException:
                    self._fail(group, "this log was closed while the record was written")
                    raise
                finally:
                    self._let_go(group)
        finally:
            self._closed = True
            self._fail(list(self._queue), "this log was closed before the record was written")
            if self._connection is not None:
                await self._connection.close()

    async def drain(self) -> None:
        """Takes no more, and returns when all that was taken is settled, or after 5 s."""
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                while self._bytes:
                    self._emptied.clear()
                    await self._emptied.wait()

    def _take_group(self) -> list[_Waiting]:
        oldest_s = asyncio.get_running_loop().time() - UNTRIED_LIMIT_S
        group: list[_Waiting] = []
        size_bytes = 0
        while self._queue and len(group) < GROUP_RECORDS:
            head = self._queue[0]
            if group and size_bytes + head.size_bytes > GROUP_BYTES:
                break
            self._queue.popleft()
            if head.called_s < oldest_s:
                self._fail([head], f"the record waited longer than {UNTRIED_LIMIT_S:.0f} s")
                self._let_go([head])
                continue
            size_bytes += head.size_bytes
            group.append(head)
        return group

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        now_us = self._clock.now_us()
        firsts = await self._insert(group, now_us)
        self._failing = False
        places: Counter[Partition] = Counter()
        for waiting in group:
            offset = firsts[waiting.partition] + places[waiting.partition]
            places[waiting.partition] += 1
            self._tail.add(waiting.partition, Stored(offset, waiting.record, now_us))
            if not waiting.durable.done():
                waiting.durable.set_result(offset)
        moved = {partition: firsts[partition] + count for partition, count in places.items()}
        self._tips.moved(moved)
        tell_moved(self._notices, moved)

    async def _insert(self, group: Sequence[_Waiting], now_us: int) -> dict[Partition, int]:
        """The offset that each partition's first record of the group got; all of them are durable."""
        counts: Counter[Partition] = Counter()
        places = []
        for waiting in group:
            places.append(counts[waiting.partition])
            counts[waiting.partition] += 1
        partitions = list(counts)
        ordinal = {partition: i for i, partition in enumerate(partitions, 1)}
        parameters: dict[str, Any] = {
            "topics": [partition.topic for partition in partitions],
            "numbers": [partition.number for partition in partitions],
            "counts": list(counts.values()),
            "now_us": now_us,
            "of": [ordinal[waiting.partition] for waiting in group],
            "places": places,
            "headers": [json.dumps(dict(w.record.headers)) if w.record.headers else "" for w in group],
            "values": [waiting.record.value for waiting in group],
        }
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._conninfo)
        rows = await fetch(self._connection, _APPEND, parameters)
        return {partitions[g - 1]: first for g, first in rows}

    def _fail(self, group: Sequence[_Waiting], problem: str) -> None:
        failed = {waiting.partition for waiting in group}
        self._failures.update(failed)
        for waiting in group:
            waiting.fail(problem)
        behind = [waiting for waiting in self._queue if waiting.partition in failed]
        self._queue = deque(waiting for waiting in self._queue if waiting.partition not in failed)
        for waiting in behind:
            waiting.fail(f"a record before this one could not be written: {problem}")
        self._let_go(behind)

    def _let_go(self, settled: Sequence[_Waiting]) -> None:
        self._bytes -= sum(waiting.size_bytes for waiting in settled)
        self._emptied.set()


@asynccontextmanager
async def writing(writer: Writer) -> AsyncIterator[None]:
    """The writer writes while the body runs; on leaving it finishes what it has taken."""
    task = asyncio.create_task(writer.write())
    try:
        yield
    finally:
        await writer.drain()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
