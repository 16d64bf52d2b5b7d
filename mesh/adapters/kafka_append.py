"""How records get into the Log in Kafka: handed to one producer in the order of the calls, within a bounded buffer.

The first failed delivery ends the producer, and all that is under way fails with it; later appends get a new one, made when
nothing of the old one can be sent any more.
"""

import asyncio
from asyncio import Future
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog
from confluent_kafka import KafkaError, KafkaException

from mesh.adapters.kafka_clients import RECORD_LIMIT_BYTES, KafkaSettings
from mesh.adapters.kafka_errors import LOG_AWAY, LOG_REPLACED, away, told, translated
from mesh.adapters.kafka_producer import BUFFER_BYTES, BUFFER_RECORDS, Delivery, Headers, Producing, Report
from mesh.adapters.kafka_topics import OLDEST_S
from mesh.adapters.kafka_watch import Watch
from mesh.errors import TooLarge, Unavailable
from mesh.ports import Clock, Partition, Record

_log = structlog.get_logger()
DELIVER_WITHIN_S = 20.0
ROOM_WITHIN_S = 20.0
_CLOSE_S = 5.0
_OVERHEAD_BYTES = 200
_HEADER_OVERHEAD_BYTES = 10
_BATCH_OVERHEAD_BYTES = 1024  # of a record that is alone in its batch, with room for lengths


class Writer:
    """Takes records for as long as the body of `writing` runs."""

    def __init__(self, settings: KafkaSettings, clock: Clock, watch: Watch, deliver_within_s: float) -> None:
        self._settings = settings
        self._clock = clock
        self._watch = watch
        self._deliver_within_s = deliver_within_s
        self._producing: Producing | None = None
        self._ending: Future[None] | None = None
        self._records = 0
        self._bytes = 0
        self._turn = asyncio.Lock()
        self._lined_up = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._failures: Counter[Partition] = Counter()
        self._failing = False

    async def put(self, partition: Partition, record: Record) -> Future[int]:
        """As `Log.append`. Callers are let in one by one, in the order of their calls, while the buffer is full, a producer ends,
        or Kafka is looked at again after a connection broke."""
        headers, size_bytes = _packed(record)
        if size_bytes > RECORD_LIMIT_BYTES - _BATCH_OVERHEAD_BYTES:
            raise TooLarge(
                f"a record of {size_bytes} bytes cannot be logged: at most {RECORD_LIMIT_BYTES - _BATCH_OVERHEAD_BYTES}"
                " with its headers"
            )
        called_ms = self._clock.now_us() // 1000
        failures = self._failures[partition]
        if self._lined_up or not self._is_open_for(size_bytes):
            self._lined_up += 1
            try:
                await self._wait_until_open_for(size_bytes)
            finally:
                self._lined_up -= 1
        if failures != self._failures[partition]:
            raise Unavailable("a record before this one could not be written", reason=LOG_AWAY)
        return self._send(partition, record.value, headers, size_bytes, called_ms)

    def settle(self, producing: Producing, reports: Sequence[Report]) -> None:
        """What became of records. Those of a producer that was ended have failed before."""
        if producing is not self._producing:
            return
        failed: dict[Partition, KafkaError] = {}
        for delivery, error, offset in reports:
            if error is not None:
                failed.setdefault(delivery.partition, error)
            elif delivery.partition not in failed and offset is not None:
                if offset <= producing.newest.get(delivery.partition, -1):
                    self._end(self._watch.replaced(f"{delivery.partition} gave offset {offset} again"))
                    return
                producing.newest[delivery.partition] = offset
                self._done(producing, delivery, offset)
        if failed:
            self._end(away(_in_words(next(iter(failed.values())), self._deliver_within_s)))
        else:
            self._failing = False
        self._changed.set()

    async def drain(self) -> None:
        """Takes no more, and returns when all that was taken is settled, or after 5 s."""
        self._closed = True
        self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                while self._records:
                    self._changed.clear()
                    await self._changed.wait()
        self._end(Unavailable("this log was closed before the record was written"))
        if self._ending is not None:
            await self._ending

    def _is_open_for(self, size_bytes: int) -> bool:
        if self._closed:
            raise Unavailable("this log is closed")
        if self._watch.problem is not None and self._watch.problem.reason == LOG_REPLACED:
            raise self._watch.problem
        if self._ending is not None or self._watch.doubtful or self._watch.problem is not None:
            return False
        return not self._bytes or (self._bytes + size_bytes <= BUFFER_BYTES and self._records < BUFFER_RECORDS)

    async def _wait_until_open_for(self, size_bytes: int) -> None:
        try:
            async with asyncio.timeout(ROOM_WITHIN_S), self._turn:
                with self._watch.telling(self._changed):
                    while not self._is_open_for(size_bytes):
                        self._changed.clear()
                        await self._changed.wait()
        except TimeoutError:
            problem = f"the log took no records for {ROOM_WITHIN_S:.0f} s"
            raise self._watch.problem or Unavailable(problem, reason=LOG_AWAY) from None

    def _send(self, partition: Partition, value: bytes, headers: Headers, size_bytes: int, called_ms: int) -> Future[int]:
        if self._producing is None:
            self._producing = Producing(self._settings, self._deliver_within_s, self.settle, self._watch.doubt)
        try:
            durable = self._producing.send(partition, value, headers, size_bytes, called_ms)
        except (KafkaException, BufferError) as error:
            failure = translated(error)
            self._end(failure)
            raise failure from error
        self._records += 1
        self._bytes += size_bytes
        return durable

    def _done(self, producing: Producing, delivery: Delivery, offset: int) -> None:
        del producing.pending[delivery]
        self._records -= 1
        self._bytes -= delivery.size_bytes
        if not delivery.durable.done():
            delivery.durable.set_result(offset)

    def _end(self, failure: Unavailable) -> None:
        """All that is under way fails, though some of it may be stored, within 30 s of its call (`kafka_topics.OLDEST_S`)."""
        producing, self._producing = self._producing, None
        if producing is None:
            return
        if producing.pending and not self._failing and not self._closed:  # once, not for every gateway that tries again
            _log.warning("log append failed", records=len(producing.pending), error=failure.message)
            self._failing = True
        for delivery in producing.pending:
            self._failures[delivery.partition] += 1
            if not delivery.durable.done():
                delivery.durable.set_exception(Unavailable(failure.message, reason=failure.reason))
                delivery.durable.exception()  # whoever does not look at it shall not be told by the loop
        self._records = self._bytes = 0
        producing.pending.clear()
        producing.end()
        self._ending = asyncio.ensure_future(self._after(producing))

    async def _after(self, producing: Producing) -> None:
        await producing.ended()
        self._ending = None
        self._changed.set()


@asynccontextmanager
async def writing(writer: Writer) -> AsyncIterator[None]:
    """The writer takes records while the body runs; on leaving, what it has taken is settled and its thread has ended."""
    try:
        yield
    finally:
        await writer.drain()


def _packed(record: Record) -> tuple[Headers, int]:
    """The headers as the driver takes them, and about how many bytes the record will have in a batch."""
    headers, size_bytes = [], len(record.value) + _OVERHEAD_BYTES
    for name, text in record.headers.items():
        content = text.encode()
        headers.append((name, content))
        size_bytes += 4 * len(name) + len(content) + _HEADER_OVERHEAD_BYTES
    return headers, size_bytes


def _in_words(error: KafkaError, deliver_within_s: float) -> str:
    if error.code() == KafkaError._MSG_TIMED_OUT:
        return f"a record could not be delivered within {deliver_within_s:.0f} s"
    if error.code() == KafkaError.INVALID_TIMESTAMP:
        return f"a record reached it more than {OLDEST_S} s after its call, or the clocks here and there differ by as much"
    return told(error)
