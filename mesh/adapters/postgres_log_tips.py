"""What one process knows of the embedded Log without asking: how far each partition goes, and the newest records it appended."""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from mesh.ports import Partition, Stored

_RECORD_OVERHEAD_BYTES = 400


class Tips:
    """The next offset of each partition, as far as heard; never too great. Who waits for records is woken when one moves.
    `members_changed`: how often it was heard that members came or went."""

    def __init__(self, next_offset: Mapping[Partition, int]) -> None:
        self._next_offset = dict(next_offset)
        self._waiting: dict[asyncio.Event, Collection[Partition]] = {}
        self.members_changed = 0

    def next_offset(self, partition: Partition) -> int:
        return self._next_offset[partition]

    @property
    def partitions(self) -> Iterable[Partition]:
        return self._next_offset.keys()

    def moved(self, next_offset: Mapping[Partition, int]) -> None:
        """Hears of new ends; old news and partitions of a newer program are left out."""
        news = {p: n for p, n in next_offset.items() if n > self._next_offset.get(p, n)}
        self._next_offset.update(news)
        for event, wanted in self._waiting.items():
            if not news.keys().isdisjoint(wanted):
                event.set()

    def change_members(self) -> None:
        """Hears that members of some group came or went."""
        self.members_changed += 1
        for event in self._waiting:
            event.set()

    @contextmanager
    def waiting(self, partitions: Collection[Partition]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of these moves, or members change."""
        event = asyncio.Event()
        self._waiting[event] = partitions
        try:
            yield event
        finally:
            del self._waiting[event]


class Tail:
    """The newest records that this process appended, at most `limit_bytes`, the oldest dropped first: consumers of the same
    process need not read them back. Nothing depends on what is in it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._records: dict[tuple[Partition, int], Stored] = {}
        self._ages: deque[tuple[Partition, int]] = deque()
        self._first: dict[Partition, int] = {}

    def add(self, partition: Partition, stored: Stored) -> None:
        place = (partition, stored.offset)
        self._records[place] = stored
        self._ages.append(place)
        self._bytes += size_of(stored)
        while self._bytes > self._limit_bytes:
            self._bytes -= size_of(self._records.pop(self._ages.popleft()))

    def trimmed(self, partition: Partition, first: int) -> None:
        """Gives nothing before this offset any more."""
        self._first[partition] = max(first, self._first.get(partition, 0))

    def read(self, partition: Partition, offset: int, limit: int, limit_bytes: int) -> list[Stored]:
        """The records from exactly this offset on, without a gap, while they are here; empty when the first is not."""
        found: list[Stored] = []
        if offset < self._first.get(partition, 0):
            return found
        taken_bytes = 0
        while len(found) < limit and (stored := self._records.get((partition, offset + len(found)))):
            taken_bytes += len(stored.record.value)
            if found and taken_bytes > limit_bytes:
                break
            found.append(stored)
        return found


def size_of(stored: Stored) -> int:
    """About what a record takes in memory."""
    return len(stored.record.value) + _RECORD_OVERHEAD_BYTES
