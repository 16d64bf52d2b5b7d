"""The whole I/O surface of the mesh: Log, Exchange, Objects and Clock, and what each MUST and MAY do.

Adapters are held to one contract suite each (tests/contract). Any adapter raises `errors.Unavailable` when its engine
is away, and nothing of its driver's own.
"""

from asyncio import Future
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol


class Partition(NamedTuple):
    """One ordered part of one topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    """What is appended: an opaque value, and headers that a stage may read without understanding the value."""

    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """A record that is durable, at its place. Offsets of a partition grow; they MAY have holes."""

    offset: int
    record: Record
    appended_at_us: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """These partitions are now the consumer's. Nothing of them is delivered until `seek` has named a start for each."""

    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one partition, in order, without a gap to those delivered before."""

    partition: Partition
    records: tuple[Stored, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """These partitions are no longer the consumer's, MAYBE already another's: drop their state and write nothing for them."""

    partitions: tuple[Partition, ...]


class Ends(NamedTuple):
    """The span of a partition: the first offset still kept and the offset that the next append will have or exceed."""

    first: int
    next: int


class Consumer(Protocol):
    """A member of a group, or a lone reader of all partitions."""

    async def next(self, timeout_s: float) -> Assigned | Records | Revoked | None:
        """Waits up to `timeout_s` for an event; None: nothing came. MUST prefer the topic named first, and MUST give each
        later topic that has records at least one in eight deliveries. A delivery is at most 8 MiB or one record."""

    async def seek(self, offsets: Mapping[Partition, int]) -> None:
        """Delivers each partition from this offset on (the next one kept, if it is gone). MUST be called for each
        partition assigned, MAY be called again later."""


class Log(Protocol):
    """Ordered, durable, replayable topics. An append is never lost once its delivery is done."""

    @property
    def log_id(self) -> str:
        """Identity of this log; offsets mean nothing in another."""

    @property
    def partition_count(self) -> int:
        """Partitions of every topic, fixed when the log was made."""

    async def append(self, partition: Partition, record: Record) -> Future[int]:
        """Hands a record over; returns once it has a place in the queue, waiting while the bounded buffer is full. The
        future gives the offset when, and only when, the record is durable. Appends of one caller to one partition keep
        their order. After a failed delivery (`errors.Unavailable`) later appends queued for that partition fail too, and
        a failed append never becomes durable later than 30 s after the call."""

    def consume(self, group: str | None, topics: Sequence[str]) -> AbstractAsyncContextManager[Consumer]:
        """Joins a group, whose members share the partitions of the topics, each partition with one member at a time; None:
        a lone reader of all. Where to start is the caller's business (`seek`); the log keeps no positions."""

    async def read(self, partition: Partition, offset: int, limit: int) -> Sequence[Stored]:
        """Up to `limit` durable records (and at most 8 MiB, but one if any) from `offset` on, without joining a group."""

    async def last(self, partition: Partition) -> Stored | None:
        """The newest durable record; None: there never was one. Trimming MUST keep it."""

    async def ends(self, topics: Sequence[str]) -> Mapping[Partition, Ends]:
        """The span of every partition, as of a moment after the call began. Holds every delivery that was done by then."""

    async def trim(self, partition: Partition, before_offset: int, before_us: int) -> int:
        """Drops records that are before the offset AND were appended before the time; returns how many. Keeps the last."""


class Priority(IntEnum):
    """How urgent a task is; each has queues, channels and workers of its own."""

    HIGH = 1
    MEDIUM = 2
    LOW = 3


class Delivery(Protocol):
    """A task taken from a shared queue, ours until settled. Unsettled ones come again, to anyone."""

    @property
    def body(self) -> bytes:
        """The task."""

    @property
    def attempt(self) -> int:
        """1 for the first try, one more after each `retry`; not counted: a worker that left or died. An adapter MAY bury a task
        with which very many workers died."""

    async def done(self) -> None:
        """The task's effect is durable: it never comes again."""

    async def retry(self, delay_s: float) -> None:
        """Try again later, counted; after the adapter's limit it goes to the dead letters instead."""

    async def bury(self, problem: str) -> None:
        """Give up: to the dead letters, with the reason."""


class Exchange(Protocol):
    """Priority queues between services. HIGH and LOW are shared by workers, MEDIUM is followed by readers."""

    async def publish(self, priority: Priority, body: bytes, severity: int = 0) -> None:
        """Returns when the task is durable in its queue (HIGH, LOW) or was offered to every follower (MEDIUM); raises
        `errors.Unavailable` otherwise, and then it MAY have been published. Within a queue a greater severity (0 to 5) MUST
        come first, then the older."""

    def take(self, priority: Priority, prefetch: int) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Tasks of HIGH or LOW, at most `prefetch` unsettled at a time, each with one worker at a time."""

    def follow(self, reader: str, limit: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """All MEDIUM tasks from now on, in a queue of this reader alone; beyond `limit` waiting the oldest are dropped."""


class Objects(Protocol):
    """Immutable named content. Paths are relative: segments of a-z A-Z 0-9 . _ - = between slashes, none of them `.` or `..`."""

    async def put(self, path: str, content: bytes) -> bool:
        """Durable on return. True: created; False: it was there with the same content. `errors.ObjectConflict` when
        it is there with other content: an object never changes."""

    async def get(self, path: str, limit: int | None = None) -> bytes:
        """The whole content, or `errors.NotFound`. `errors.TooLarge` when it has more bytes than the limit, of which none is
        read then. An engine that can tell by itself that the content is not what was put raises `errors.FailedPrecondition`
        (OBJECT_DAMAGED)."""

    def list(self, prefix: str) -> AsyncIterator[str]:
        """Paths that begin with the prefix, in order of their bytes."""

    async def delete(self, path: str) -> None:
        """Gone on return; no error when it was not there."""


class Clock(Protocol):
    """Time as an argument."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""

    async def sleep(self, seconds: float) -> None:
        """Waits that long by this clock."""
