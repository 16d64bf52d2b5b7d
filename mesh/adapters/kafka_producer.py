"""One idempotent producer of Kafka and the thread that polls it; ended at its first failed delivery, never mended."""

import asyncio
import threading
from asyncio import Future
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from mesh.adapters.kafka_clients import RECORD_LIMIT_BYTES, KafkaSettings, client_config
from mesh.adapters.kafka_errors import breaks_a_connection
from mesh.ports import Partition

BUFFER_RECORDS = 50_000
BUFFER_BYTES = 32 * 2**20
_POLL_S = 0.1
_LAST_WORDS_S = 1.0


class Delivery:
    """A record under way: whose future, how big, and how to say what became of it (`report`, in the producer's thread)."""

    __slots__ = ("_reports", "durable", "partition", "size_bytes")

    def __init__(self, partition: Partition, size_bytes: int, durable: "Future[int]", reports: "list[Report]") -> None:
        self.partition = partition
        self.size_bytes = size_bytes
        self.durable = durable
        self._reports = reports

    def report(self, error: KafkaError | None, message: Message) -> None:
        self._reports.append((self, error, message.offset()))


Headers = list[tuple[str, bytes]]
Report = tuple[Delivery, KafkaError | None, int | None]


class Producing:
    """`settle(self, reports)` is called on the loop, once for all that a poll found, in the order of each partition; `doubt`, on
    the loop, when a connection broke. `pending`: what is under way, the oldest first; for the loop alone."""

    def __init__(
        self,
        settings: KafkaSettings,
        deliver_within_s: float,
        settle: "Callable[[Producing, list[Report]], None]",
        doubt: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._settle = settle
        self._doubt = doubt
        self._reports: list[Report] = []
        self._ending = False
        self.fatal: KafkaError | None = None
        self.pending: dict[Delivery, None] = {}
        self.newest: dict[Partition, int] = {}
        self._client: Producer | None = Producer(_config(settings, deliver_within_s, self._on_error))
        self._thread = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._thread.start()

    def send(self, partition: Partition, value: bytes, headers: Headers, size_bytes: int, at_ms: int) -> "Future[int]":
        """Hands the record to the driver, which copies it. Raises KafkaException or BufferError where it does not take it."""
        assert self._client is not None, "an ended producer is not used"
        delivery = Delivery(partition, size_bytes, self._loop.create_future(), self._reports)
        self._client.produce(
            self._settings.named(partition.topic),
            value,
            partition=partition.number,
            headers=headers,  # type: ignore[arg-type]
            timestamp=at_ms,
            on_delivery=delivery.report,
        )
        self.pending[delivery] = None
        return delivery.durable

    def end(self) -> None:
        """Nothing more is sent; what is in the socket of a broker may still be stored. Its thread ends soon."""
        self._ending = True

    async def ended(self) -> None:
        """Returns when its connections are closed and its thread has ended."""
        await asyncio.to_thread(self._thread.join)

    def _poll(self) -> None:
        client = self._client
        assert client is not None
        while not self._ending:
            client.poll(_POLL_S)
            if self._reports:
                reports = self._reports[:]
                del self._reports[: len(reports)]
                self._tell(partial(self._settle, self, reports))
        self._client = None
        with suppress(KafkaException):
            client.purge(in_queue=True, in_flight=True, blocking=True)
            client.flush(_LAST_WORDS_S)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = error
        if breaks_a_connection(error):
            self._tell(self._doubt)

    def _tell(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(what)


def _config(settings: KafkaSettings, deliver_within_s: float, on_error: Callable[[KafkaError], None]) -> dict[str, object]:
    return client_config(
        settings,
        on_error,
        enable_idempotence=True,
        acks="all",
        linger_ms=1,
        compression_type="lz4",
        batch_size=1_000_000,
        delivery_timeout_ms=round(deliver_within_s * 1000),
        request_timeout_ms=min(10_000, round(deliver_within_s * 1000)),
        message_max_bytes=RECORD_LIMIT_BYTES,
        queue_buffering_max_messages=2 * BUFFER_RECORDS,  # the bounds that hold are ours
        queue_buffering_max_kbytes=2 * BUFFER_BYTES // 1024,
    )
