"""Where Kafka is, and what every client of it is told: deadlines, one prefix for all names, nothing made by accident."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError

RECORD_LIMIT_BYTES = 4 * 2**20  # of a batch on the broker: max.message.bytes of each topic
REQUEST_TIMEOUT_S = 6.0  # of what somebody waits for
_SOCKET_TIMEOUT_S = 10
_CONNECT_TIMEOUT_S = 5
_FETCH_BYTES = 4 * 2**20  # as they are compressed
_QUEUE_BYTES = 8 * 2**20
ALONE = "alone"  # the group of those that have none


@dataclass(frozen=True)
class KafkaSettings:
    """`servers`: host:port,...; `prefix`: before the name of every topic and group; `partitions` of each topic and `replication`
    of each partition (1, or 3 of which 2 must have a record before it is acknowledged); `security`: the driver's own
    settings `security.protocol`, `sasl.*` and `ssl.*`, never shown."""

    servers: str
    prefix: str = ""
    partitions: int = 64
    replication: int = 1
    security: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def least_in_sync(self) -> int:
        """Replicas that must have a record before it is acknowledged."""
        return 2 if self.replication >= 3 else 1

    def named(self, name: str) -> str:
        """The name in Kafka of a topic or group."""
        return self.prefix + name


def client_config(settings: KafkaSettings, on_error: Callable[[KafkaError], None], **more: Any) -> dict[str, Any]:
    """What a client is made with; `more` has underscores for dots. `on_error` is called by whoever polls the client. The driver
    writes nothing by itself: what matters reaches `on_error`, and whoever waits is told by an exception."""
    return {
        "bootstrap.servers": settings.servers,
        "client.id": settings.named("wq"),
        "error_cb": on_error,
        "log_level": 0,
        "socket.keepalive.enable": True,
        "socket.timeout.ms": _SOCKET_TIMEOUT_S * 1000,
        "socket.connection.setup.timeout.ms": _CONNECT_TIMEOUT_S * 1000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "retry.backoff.ms": 50,
        "enable.metrics.push": False,
        **settings.security,
        **{name.replace("_", "."): value for name, value in more.items()},
    }


def reader_config(settings: KafkaSettings, group: str, on_error: Callable[[KafkaError], None], **more: Any) -> dict[str, Any]:
    """What a client that reads is made with: no offset is kept in Kafka, and none is made up."""
    return client_config(
        settings,
        on_error,
        group_id=settings.named(group),
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        auto_offset_reset="error",
        enable_partition_eof=True,
        allow_auto_create_topics=False,
        queued_min_messages=2000,
        queued_max_messages_kbytes=_QUEUE_BYTES // 1024,
        fetch_max_bytes=_FETCH_BYTES,
        fetch_queue_backoff_ms=10,
        fetch_error_backoff_ms=100,
        **more,
    )
