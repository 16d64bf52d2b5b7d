"""How single records come out of the Log in Kafka, without a group: a few clients of their own, used in threads."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, Message

from mesh.adapters.kafka_clients import ALONE, REQUEST_TIMEOUT_S, KafkaSettings, reader_config
from mesh.adapters.kafka_errors import away, breaks_a_connection, translated
from mesh.adapters.kafka_messages import place_of, stored_of
from mesh.ports import Partition, Stored

READ_BYTES = 8 * 2**20
READ_RECORDS = 10_000
_CLIENTS = 2
_AT_ONCE = 500
_NEWEST = -2001  # the driver's name for one before the end
_PART_BYTES = 2**16  # most reads want one record
_WAIT_MS = 2  # the end of a partition is known so long after its last record


class Readers:
    """At most 2 reads at a time, each with a client that is made when it is needed and kept while it serves."""

    def __init__(self, settings: KafkaSettings, doubt: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._doubt = doubt
        self._idle: SimpleQueue[Client] = SimpleQueue()
        self._threads = ThreadPoolExecutor(_CLIENTS, "kafka-read")

    async def read(self, partition: Partition, offset: int, limit: int) -> Sequence[Stored]:
        """As `Log.read`. Raises Unavailable."""
        count = min(limit, READ_RECORDS)
        if count < 1:
            return ()
        return await self._in_thread(lambda client, by_s: self._read(client, partition, max(0, offset), count, by_s))

    async def last(self, partition: Partition) -> Stored | None:
        """As `Log.last`. Raises Unavailable."""
        found = await self._in_thread(lambda client, by_s: self._read(client, partition, _NEWEST, 1, by_s))
        return found[-1] if found else None

    async def close(self) -> None:
        """Closes the clients; to be called when nobody reads."""
        await asyncio.to_thread(self._close)

    async def _in_thread(self, work: Callable[[Client, float], tuple[Stored, ...]]) -> tuple[Stored, ...]:
        def with_client() -> tuple[Stored, ...]:
            by_s = time.monotonic() + REQUEST_TIMEOUT_S
            with self._client() as client:
                return work(client, by_s)

        try:
            async with asyncio.timeout(2 * REQUEST_TIMEOUT_S):
                return await self._loop.run_in_executor(self._threads, with_client)
        except KafkaException as error:
            raise translated(error) from error
        except TimeoutError:
            raise away(f"nothing could be read within {2 * REQUEST_TIMEOUT_S:.0f} s") from None

    @contextmanager
    def _client(self) -> Iterator[Client]:
        """One that is idle, or a new one; kept unless something went wrong with it."""
        try:
            client = self._idle.get_nowait()
        except Empty:
            client = Client(
                reader_config(
                    self._settings, ALONE, self._on_error, fetch_wait_max_ms=_WAIT_MS, max_partition_fetch_bytes=_PART_BYTES
                )
            )
        try:
            yield client
            client.unassign()
        except BaseException:
            with suppress(KafkaException):
                client.close()
            raise
        self._idle.put(client)

    def _read(self, client: Client, partition: Partition, offset: int, limit: int, by_s: float) -> tuple[Stored, ...]:
        place = place_of(partition, self._settings, offset)
        client.assign([place])
        found: list[Stored] = []
        size_bytes = 0
        while len(found) < limit:
            for message in self._some(client, min(_AT_ONCE, limit - len(found)), by_s):
                error = message.error()
                if error is None:
                    stored = stored_of(message)
                    size_bytes += len(stored.record.value)
                    if found and size_bytes > READ_BYTES:
                        return tuple(found)
                    found.append(stored)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return tuple(found)
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    first, _ = client.get_watermark_offsets(place, timeout=max(0.1, by_s - time.monotonic()))
                    if offset >= first:
                        return ()  # beyond the end
                    offset = first
                    client.assign([place_of(partition, self._settings, first)])
                else:
                    self._on_error(error)
                    raise KafkaException(error)
            if found and found[-1].offset + 1 >= client.get_watermark_offsets(place, cached=True)[1]:
                break
        return tuple(found)

    def _some(self, client: Client, count: int, by_s: float) -> list[Message]:
        first = client.poll(max(0.0, by_s - time.monotonic()))
        if first is None:
            raise away(f"nothing was read within {REQUEST_TIMEOUT_S:.0f} s")
        return [first, *client.consume(count - 1, 0)] if count > 1 else [first]

    def _close(self) -> None:
        self._threads.shutdown()
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _on_error(self, error: KafkaError) -> None:
        if breaks_a_connection(error):
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._doubt)
