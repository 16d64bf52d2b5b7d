"""Kafka's messages as the port's records."""

from confluent_kafka import Message, TopicPartition

from mesh.adapters.kafka_clients import KafkaSettings
from mesh.ports import Partition, Record, Stored


def stored_of(message: Message) -> Stored:
    """A message that is no error. Times are whole milliseconds."""
    offset, (_, at_ms) = message.offset(), message.timestamp()
    assert offset is not None
    found = message.headers() or ()
    headers = {name: _text(value) for name, value in (found.items() if isinstance(found, dict) else found)}
    return Stored(offset, Record(message.value() or b"", headers), at_ms * 1000)


def partition_of(message: Message, settings: KafkaSettings) -> Partition:
    """Where a message, or an event of a partition, belongs to."""
    topic, number = message.topic(), message.partition()
    assert topic is not None
    assert number is not None
    return Partition(topic[len(settings.prefix) :], number)


def place_of(partition: Partition, settings: KafkaSettings, offset: int = -1) -> TopicPartition:
    """The partition as the driver names it, with an offset."""
    return TopicPartition(settings.named(partition.topic), partition.number, offset)


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
