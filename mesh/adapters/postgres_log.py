"""The embedded Log: the port on tables of one PostgreSQL database, put together from its parts."""

from asyncio import Future
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from mesh.adapters.postgres_connections import Connections, connections, conninfo_of
from mesh.adapters.postgres_log_append import Writer, writing
from mesh.adapters.postgres_log_consume import PostgresConsumer
from mesh.adapters.postgres_log_group import Membership
from mesh.adapters.postgres_log_listen import hearing, log_notices, read_next_offsets
from mesh.adapters.postgres_log_read import read_ends, read_last, read_records, trim_records
from mesh.adapters.postgres_log_schema import make_log
from mesh.adapters.postgres_log_tips import Tail, Tips
from mesh.errors import InvalidArgument
from mesh.ports import Clock, Consumer, Ends, Partition, Record, Stored

_CONNECTIONS = 4
_TAIL_BYTES = 64 * 2**20


class PostgresLog:
    """The port Log. Made by `open_postgres_log`. Takes 6 connections, and one more for each member of a group."""

    def __init__(self, log_id: str, conninfo: str, database: Connections, writer: Writer, tips: Tips, tail: Tail) -> None:
        self._log_id = log_id
        self._conninfo = conninfo
        self._database = database
        self._writer = writer
        self._tips = tips
        self._tail = tail
        self._partition_count = 1 + max(partition.number for partition in tips.partitions)

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def partition_count(self) -> int:
        return self._partition_count

    async def append(self, partition: Partition, record: Record) -> Future[int]:
        """As the port says; the buffer holds 16 MiB, a record at most 8. Raises Unavailable where it stays full for 20 s."""
        self._must_exist(partition)
        return await self._writer.put(partition, record)

    @asynccontextmanager
    async def consume(self, group: str | None, topics: Sequence[str]) -> AsyncIterator[Consumer]:
        partitions = [Partition(topic, number) for topic in topics for number in range(self._partition_count)]
        for partition in partitions:
            self._must_exist(partition)
        membership = None if group is None else Membership(self._conninfo, group, topics, partitions)
        try:
            yield PostgresConsumer(self._database, self._tips, self._tail, topics, partitions, membership)
        finally:
            if membership is not None:
                await membership.leave()

    async def read(self, partition: Partition, offset: int, limit: int) -> Sequence[Stored]:
        self._must_exist(partition)
        return await read_records(self._database, partition, offset, limit)

    async def last(self, partition: Partition) -> Stored | None:
        self._must_exist(partition)
        return await read_last(self._database, partition)

    async def ends(self, topics: Sequence[str]) -> Mapping[Partition, Ends]:
        return await read_ends(self._database, topics)

    async def trim(self, partition: Partition, before_offset: int, before_us: int) -> int:
        self._must_exist(partition)
        dropped, first = await trim_records(self._database, partition, before_offset, before_us)
        self._tail.trimmed(partition, first)
        return dropped

    def _must_exist(self, partition: Partition) -> None:
        if partition not in self._tips.partitions:
            raise InvalidArgument(
                f"the log has no {partition}: its topics are in mesh/topics.py, numbers 0 to {self.partition_count - 1}"
            )


@asynccontextmanager
async def open_postgres_log(
    url: str, partition_count: int, clock: Clock, *, tail_bytes: int = _TAIL_BYTES
) -> AsyncIterator[PostgresLog]:
    """The log in the database of this SQLAlchemy URL, its tables made when they are missing; nothing of its history is read.
    On leaving, what was appended is settled. Raises SetupError for another partition count than it was made with, and
    Unavailable. `tail_bytes`: memory for records that consumers of this process need not read back."""
    conninfo = conninfo_of(url)
    async with connections(conninfo, _CONNECTIONS) as database:
        log_id = await make_log(database, partition_count)
        tips, tail = Tips(await read_next_offsets(database)), Tail(tail_bytes)
        notices = log_notices(conninfo, database, tips)
        writer = Writer(conninfo, clock, tips, tail, notices)
        async with hearing(notices, database, tips), writing(writer):
            yield PostgresLog(log_id, conninfo, database, writer, tips, tail)
