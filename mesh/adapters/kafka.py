"""The Log on Apache Kafka: the port, put together from its parts. Kafka 3.6 or newer, with the topics of `create_topics`."""

import asyncio
from asyncio import Future
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from mesh.adapters.kafka_admin import Admin, administration
from mesh.adapters.kafka_append import DELIVER_WITHIN_S, Writer, writing
from mesh.adapters.kafka_clients import REQUEST_TIMEOUT_S, KafkaSettings
from mesh.adapters.kafka_consume import KafkaConsumer
from mesh.adapters.kafka_errors import translated
from mesh.adapters.kafka_messages import place_of
from mesh.adapters.kafka_read import Readers
from mesh.adapters.kafka_topics import check_topics, create_topics, reach
from mesh.adapters.kafka_watch import Watch, watching
from mesh.errors import InvalidArgument
from mesh.ports import Clock, Consumer, Ends, Partition, Record, Stored
from mesh.topics import TOPICS

__all__ = ["KafkaLog", "KafkaSettings", "create_topics", "open_kafka_log"]


class KafkaLog:
    """The port Log. Made by `open_kafka_log`. Besides the driver's own threads: one for the producer, one for each consumer, two
    for reads. A record's time is that of its append, by our clock, in milliseconds; the brokers refuse one that is far from
    theirs (`kafka_topics.OLDEST_S`, `FASTEST_S`)."""

    def __init__(
        self, log_id: str, settings: KafkaSettings, admin: Admin, watch: Watch, writer: Writer, readers: Readers
    ) -> None:
        self._log_id = log_id
        self._settings = settings
        self._admin = admin
        self._watch = watch
        self._writer = writer
        self._readers = readers

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def partition_count(self) -> int:
        return self._settings.partitions

    async def append(self, partition: Partition, record: Record) -> Future[int]:
        """As the port says; the buffer holds 32 MiB, a record with its headers almost 4. Raises Unavailable where it stays full,
        or Kafka away, for 20 s."""
        self._must_exist(partition)
        return await self._writer.put(partition, record)

    @asynccontextmanager
    async def consume(self, group: str | None, topics: Sequence[str]) -> AsyncIterator[Consumer]:
        partitions = self._partitions(topics)
        async with KafkaConsumer(topics, self._watch).fetching(self._settings, group, partitions) as consumer:
            yield consumer

    async def read(self, partition: Partition, offset: int, limit: int) -> Sequence[Stored]:
        self._must_exist(partition)
        await self._watch.ready()
        return await self._readers.read(partition, offset, limit)

    async def last(self, partition: Partition) -> Stored | None:
        self._must_exist(partition)
        await self._watch.ready()
        return await self._readers.last(partition)

    async def ends(self, topics: Sequence[str]) -> Mapping[Partition, Ends]:
        partitions = self._partitions(topics)
        await self._watch.ready()
        earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
        first, following = await asyncio.gather(self._offsets(partitions, earliest), self._offsets(partitions, latest))
        return {partition: Ends(first[partition], following[partition]) for partition in partitions}

    async def trim(self, partition: Partition, before_offset: int, before_us: int) -> int:
        """As the port says; of records whose times are out of order, those behind the first that is too new are kept."""
        self._must_exist(partition)
        span = (await self.ends([partition.topic]))[partition]
        too_new = await self._offsets([partition], OffsetSpec.for_timestamp(max(0, -(-before_us // 1000))))
        end = min(before_offset, span.next - 1)
        if too_new[partition] >= 0:
            end = min(end, too_new[partition])
        if end <= span.first:
            return 0
        place = place_of(partition, self._settings, end)
        dropping = self._admin.client.delete_records([place], request_timeout=REQUEST_TIMEOUT_S)
        for answer in (await self._admin.answers(dropping)).values():
            if isinstance(answer, KafkaException):
                raise translated(answer)
        return end - span.first

    async def _offsets(self, partitions: Sequence[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        places: dict[TopicPartition, OffsetSpec] = {place_of(partition, self._settings): spec for partition in partitions}
        found = await self._admin.offsets(places)
        return {partition: found[self._settings.named(partition.topic), partition.number] for partition in partitions}

    def _partitions(self, topics: Sequence[str]) -> list[Partition]:
        partitions = [Partition(topic, number) for topic in topics for number in range(self.partition_count)]
        for partition in partitions:
            self._must_exist(partition)
        return partitions

    def _must_exist(self, partition: Partition) -> None:
        if partition.topic not in TOPICS or not 0 <= partition.number < self.partition_count:
            raise InvalidArgument(
                f"the log has no {partition}: its topics are in mesh/topics.py, numbers 0 to {self.partition_count - 1}"
            )


@asynccontextmanager
async def open_kafka_log(
    settings: KafkaSettings, clock: Clock, *, deliver_within_s: float = DELIVER_WITHIN_S
) -> AsyncIterator[KafkaLog]:
    """The log in these topics. On leaving, what was appended is settled. Raises SetupError with everything that is wrong there,
    also when no broker answers. `clock` must be right to some seconds. `deliver_within_s`: after which an append fails."""
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(administration(settings))
        log_id = await check_topics(admin, settings)
        watch = Watch(admin, settings, await reach(admin, settings), log_id)
        await stack.enter_async_context(watching(watch))
        readers = Readers(settings, watch.doubt)
        stack.push_async_callback(readers.close)
        writer = Writer(settings, clock, watch, deliver_within_s)
        await stack.enter_async_context(writing(writer))
        yield KafkaLog(log_id, settings, admin, watch, writer, readers)
