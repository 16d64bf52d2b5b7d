"""How much a consumer of the Log in Kafka fetches ahead: so much of each topic, and which partitions pause meanwhile."""

from collections.abc import Collection, Iterable, Sequence

from mesh.ports import Partition, Stored

TOPIC_BYTES = 8 * 2**20
_RESUME_BYTES = TOPIC_BYTES // 2
_PATIENCE_S = 0.5
_RECORD_OVERHEAD_BYTES = 400


class Room:
    """Shared by a consumer and its thread without a lock: each counter is written by one of the two alone.

    A topic that is full is waited for, unpolled: pausing throws away what the driver has fetched. It is paused where another
    topic may have records and none of it are here, or where the caller is slow, so that the group is still heard.
    `is_waiting`: nothing is to be polled now.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self._posted = dict.fromkeys(topics, 0)
        self._taken = dict.fromkeys(topics, 0)
        self._open: dict[str, set[Partition]] = {topic: set() for topic in topics}
        self._ended: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._full_since_s: float | None = None
        self.is_waiting = False

    def taken(self, partition: Partition, records: Sequence[Stored]) -> None:
        """These have left; for the loop."""
        self._taken[partition.topic] += bytes_of(records)

    def may_have_more(self, topic: str) -> bool:
        """False when all of the topic has come and was taken, so far; for the loop."""
        return self._posted[topic] != self._taken[topic] or bool(self._open[topic] - self._ended)

    def posted(self, partition: Partition, records: Sequence[Stored]) -> None:
        """These are on their way to the loop; for the thread, as all below."""
        self._posted[partition.topic] += bytes_of(records)
        self._ended.discard(partition)

    def at_end(self, partition: Partition) -> None:
        """All of it has come, so far."""
        self._ended.add(partition)

    def opened(self, partitions: Iterable[Partition]) -> None:
        """These are fetched now, from a new place."""
        for partition in partitions:
            self._open[partition.topic].add(partition)
            self._ended.discard(partition)
            self._paused.discard(partition)

    def closed(self, partitions: Iterable[Partition]) -> None:
        """These are not fetched any more."""
        for partition in partitions:
            self._open[partition.topic].discard(partition)
            self._paused.discard(partition)

    def regulate(self, now_s: float) -> tuple[Collection[Partition], Collection[Partition]]:
        """What to pause and what to resume now."""
        held = {topic: self._posted[topic] - self._taken[topic] for topic in self._open}
        resume = {partition for partition in self._paused if held[partition.topic] <= _RESUME_BYTES}
        self._paused -= resume
        running = {topic: partitions - self._paused for topic, partitions in self._open.items()}
        pause = {p for topic, partitions in running.items() if held[topic] >= TOPIC_BYTES for p in partitions}
        if not pause:
            self._full_since_s = None
        elif self._full_since_s is None:
            self._full_since_s = now_s
        is_patient = self._full_since_s is not None and now_s - self._full_since_s < _PATIENCE_S
        is_hungry = any(not held[topic] and partitions - self._ended for topic, partitions in running.items())
        self.is_waiting = bool(pause) and is_patient and not is_hungry
        if self.is_waiting:
            pause = set()
        self._paused |= pause
        return pause, resume


def bytes_of(records: Sequence[Stored]) -> int:
    """About what they take in memory."""
    return sum(len(stored.record.value) + _RECORD_OVERHEAD_BYTES for stored in records)
