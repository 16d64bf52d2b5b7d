"""The thread that polls one consumer of Kafka: it fetches ahead within bounds, and keeps the group's rules.

A member of the classic kind, with cooperative rebalance: a session of 10 s is ours to choose. With `group.protocol=consumer`
it is the brokers' (45 s at least, as they come, and a heartbeat each 5 s): the partitions of a killed process would be without
a reader for so long, so that it does not serve.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from mesh.adapters.kafka_clients import ALONE, KafkaSettings, reader_config
from mesh.adapters.kafka_errors import away, breaks_a_connection, told, translated
from mesh.adapters.kafka_messages import partition_of, place_of, stored_of
from mesh.adapters.kafka_room import Room
from mesh.errors import Unavailable
from mesh.ports import Assigned, Partition, Revoked, Stored

SESSION_S = 10
SILENT_S = 15.0  # so long may a caller stay away before the group is told nothing more of it,
POLL_WITHIN_S = 45  # and so much longer until it is out
_HEARTBEAT_S = 0.5
_POLL_S = 0.05
_NAP_S = 0.02
_POLL_RECORDS = 256
_BEYOND_END_S = 1.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records of one partition, in order; `tenure`: of which `Fetcher.start` they are."""

    partition: Partition
    tenure: int
    records: tuple[Stored, ...]


News = Assigned | Revoked | Fetched | Unavailable


class Fetcher:
    """`tell` is called on the loop with what is new, in its order; `doubt`, on the loop, when a connection broke. Its methods
    are for the loop's thread; those below `_run` run in its own."""

    def __init__(
        self,
        settings: KafkaSettings,
        group: str | None,
        partitions: Sequence[Partition],
        room: Room,
        tell: Callable[[Sequence[News]], None],
        doubt: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._group = group
        self._all = partitions
        self._room = room
        self._tell_loop = tell
        self._doubt = doubt
        self._wanted: deque[tuple[Mapping[Partition, int], int]] = deque()
        self._nudge = threading.Event()
        self._released = threading.Event()
        self._revocations = 0
        self._released_to = 0
        self._closing = False
        self._asking = False
        self._heard_s = time.monotonic()
        self._owned: set[Partition] = set()
        self._tenure: dict[Partition, int] = {}
        self._next: dict[Partition, int] = {}
        self._again: dict[Partition, float] = {}
        self._thread = threading.Thread(target=self._run, name=f"kafka-consumer-{group or ALONE}", daemon=True)
        self._thread.start()

    def asking(self, is_asking: bool) -> None:
        """The caller waits for news, or has gone to work. A caller who stays away for too long is out of the group."""
        self._heard_s = time.monotonic()
        self._asking = is_asking
        self._nudge.set()

    def release(self, told: int) -> None:
        """The caller has nothing to do any more with what it was told in so many `Revoked`, all of them counted."""
        self._released_to = told
        self._released.set()

    @property
    def is_alive(self) -> bool:
        """False when it has closed, or its driver has given up."""
        return self._thread.is_alive() and not self._closing

    def start(self, offsets: Mapping[Partition, int], tenure: int) -> None:
        """Fetches these partitions from there on; those that are not ours any more are left out."""
        self._wanted.append((dict(offsets), tenure))
        self._nudge.set()

    def make_room(self) -> None:
        """Something was taken."""
        self._nudge.set()

    async def close(self, within_s: float) -> None:
        """Leaves the group and ends the thread; where Kafka is away that may take longer, and goes on behind."""
        self._closing = True
        self._nudge.set()
        self._released.set()
        await asyncio.to_thread(self._thread.join, within_s)

    def _run(self) -> None:
        client = Client(_config(self._settings, self._group, self._on_error))
        try:
            if self._group is None:
                self._on_assign(client, [place_of(partition, self._settings) for partition in self._all])
            else:
                topics = sorted({self._settings.named(partition.topic) for partition in self._all})
                client.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
            while not self._closing:
                self._turn(client)
        except (KafkaException, RuntimeError) as error:
            self._tell([translated(error)])
        finally:
            self._closing = True
            with suppress(KafkaException, RuntimeError):
                client.close()

    def _turn(self, client: Client) -> None:
        if not self._asking and time.monotonic() - self._heard_s > SILENT_S:
            self._nap(_POLL_S)  # unpolled for so long, the driver leaves the group
            return
        while self._wanted:
            offsets, tenure = self._wanted.popleft()
            self._fetch_from(client, offsets, tenure)
        if due := [partition for partition, at_s in self._again.items() if at_s < time.monotonic()]:
            self._fetch_from(client, {partition: self._next[partition] for partition in due if partition in self._next}, None)
        pause, resume = self._room.regulate(time.monotonic())
        if resume:
            client.resume([place_of(partition, self._settings) for partition in resume])
        if pause:
            client.pause([place_of(partition, self._settings) for partition in pause])
        if self._room.is_waiting:
            self._nap(_NAP_S)
            return
        first = client.poll(_POLL_S)
        if first is not None:
            self._take(client, [first, *client.consume(_POLL_RECORDS - 1, 0)])

    def _nap(self, seconds: float) -> None:
        self._nudge.wait(seconds)
        self._nudge.clear()

    def _fetch_from(self, client: Client, offsets: Mapping[Partition, int], tenure: int | None) -> None:
        """Nothing that was fetched before comes after this."""
        mine = {partition: offset for partition, offset in offsets.items() if partition in self._owned}
        for partition in mine:
            self._again.pop(partition, None)
        if running := [place_of(partition, self._settings) for partition in mine if partition in self._next]:
            client.incremental_unassign(running)
        if mine:
            places = [place_of(partition, self._settings, max(0, offset)) for partition, offset in mine.items()]
            client.incremental_assign(places)
            client.resume(places)  # a pause outlives an assignment
        self._next |= mine
        if tenure is not None:
            self._tenure |= dict.fromkeys(mine, tenure)
        self._room.opened(mine)

    def _take(self, client: Client, messages: Sequence[Message]) -> None:
        found: dict[Partition, list[Stored]] = {}
        news: list[News] = []
        has_ended = False
        for message in messages:
            error = message.error()
            if error is None:
                partition = partition_of(message, self._settings)
                stored = stored_of(message)
                if stored.offset >= self._next.get(partition, 1 << 63):
                    found.setdefault(partition, []).append(stored)
                    self._next[partition] = stored.offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._room.at_end(partition_of(message, self._settings))
                has_ended = True
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._find_start(client, partition_of(message, self._settings))
            elif error.code() != KafkaError._MAX_POLL_EXCEEDED:
                self._on_error(error)
                news.append(away(told(error)))
        for partition, records in found.items():
            self._room.posted(partition, records)
            news.append(Fetched(partition, self._tenure[partition], tuple(records)))
        if news or has_ended:
            self._tell(news)

    def _find_start(self, client: Client, partition: Partition) -> None:
        """Goes on with the first record kept; where the partition ends before, it is asked again, and looked at whether this
        is another log."""
        wanted = self._next.get(partition)
        if wanted is None:
            return
        try:
            first, following = client.get_watermark_offsets(place_of(partition, self._settings), timeout=5)
        except KafkaException:
            first, following = 0, 0  # asked again below
        if wanted < first:
            self._fetch_from(client, {partition: first}, None)
            return
        self._again[partition] = time.monotonic() + _BEYOND_END_S
        if wanted > following:
            self._on_loop(self._doubt)

    def _on_assign(self, client: Client, places: Sequence[TopicPartition]) -> None:
        """What is ours is fetched once `start` has named a place: until then the driver is given nothing to fetch."""
        client.incremental_assign([])
        got = self._ours(places)
        self._owned |= set(got)
        if got:
            self._tell([Assigned(got)])

    def _on_revoke(self, client: Client, places: Sequence[TopicPartition]) -> None:
        """Others get them when this returns: when the caller has come back after it was told."""
        gone = self._ours(places)
        if gone:
            self._revoke(gone)
            while self._released_to < self._revocations and not self._closing:
                self._released.wait(_POLL_S)
                self._released.clear()
        self._let_go(client, gone)

    def _on_lost(self, client: Client, places: Sequence[TopicPartition]) -> None:
        gone = self._ours(places)
        if gone:
            self._revoke(gone)
        self._let_go(client, gone)

    def _revoke(self, gone: tuple[Partition, ...]) -> None:
        self._revocations += 1
        self._tell([Revoked(gone)])

    def _let_go(self, client: Client, gone: Sequence[Partition]) -> None:
        running = [place_of(partition, self._settings) for partition in gone if partition in self._next]
        with suppress(KafkaException):  # they are lost meanwhile
            client.incremental_unassign(running)
        self._owned -= set(gone)
        for partition in gone:
            self._next.pop(partition, None)
            self._again.pop(partition, None)
        self._room.closed(gone)

    def _ours(self, places: Sequence[TopicPartition]) -> tuple[Partition, ...]:
        cut = len(self._settings.prefix)
        return tuple(sorted(Partition(place.topic[cut:], place.partition) for place in places))

    def _on_error(self, error: KafkaError) -> None:
        if breaks_a_connection(error):
            self._on_loop(self._doubt)
        elif error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) or error.fatal():
            self._tell([away(told(error))])

    def _tell(self, news: Sequence[News]) -> None:
        self._on_loop(lambda: self._tell_loop(news))

    def _on_loop(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(what)


def _config(settings: KafkaSettings, group: str | None, on_error: Callable[[KafkaError], None]) -> dict[str, object]:
    return reader_config(
        settings,
        group or ALONE,
        on_error,
        partition_assignment_strategy="cooperative-sticky",
        session_timeout_ms=SESSION_S * 1000,
        heartbeat_interval_ms=round(_HEARTBEAT_S * 1000),
        max_poll_interval_ms=POLL_WITHIN_S * 1000,
        fetch_wait_max_ms=100,
        max_partition_fetch_bytes=2**19,
    )
