"""ArchiveService: requests of archive.proto -> manifest, check and restore. The only place of its requests and responses."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from waterquality.v1 import archive_pb2, archive_pb2_grpc

from archive_svc.manifest import Manifest, Wanted, check_wanted
from archive_svc.manifest_record import ManifestRow
from archive_svc.restore import Restored
from archive_svc.verify import Checked, Verify
from mesh.codec.times import read_time, write_time
from mesh.errors import Unavailable
from mesh.server import answers

NAME = "waterquality.v1.ArchiveService"
MOST_LONG_CALLS = 4
"""Checks and restores at a time: each reads objects as fast as it can."""
_Context = grpc.aio.ServicerContext[Any, Any]
_Found = TypeVar("_Found")


class Restore(Protocol):
    """Puts archived readings back into the log."""

    def run(self, wanted: Wanted, source: str) -> AsyncIterator[Restored]:
        """Progress as it goes; whoever leaves it stops it."""


class ArchiveService(archive_pb2_grpc.ArchiveServiceServicer):
    """`unread_s`: how long the caller of a check or a restore may leave its progress unread."""

    def __init__(self, manifest: Manifest, verify: Verify, restore: Restore, unread_s: float) -> None:
        self._manifest = manifest
        self._verify = verify
        self._restore = restore
        self._unread_s = unread_s
        self._long_calls = 0

    @answers
    async def ListObjects(self, request: archive_pb2.ListObjectsRequest, context: _Context) -> archive_pb2.ListObjectsResponse:
        rows, token = await self._manifest.page(read_wanted(request), request.page_size, request.page_token)
        return archive_pb2.ListObjectsResponse(objects=map(write_object, rows), next_page_token=token)

    @answers
    async def VerifyArchive(  # type: ignore[override]  # grpc.aio also takes a coroutine that writes
        self, request: archive_pb2.VerifyArchiveRequest, context: _Context
    ) -> None:
        await self._stream(context, self._verify.run(read_wanted(request)), _checked)

    @answers
    async def RestoreReadings(  # type: ignore[override]
        self, request: archive_pb2.RestoreReadingsRequest, context: _Context
    ) -> None:
        await self._stream(context, self._restore.run(read_wanted(request), request.source), _restored)

    async def _stream(self, context: _Context, found: AsyncIterator[_Found], write: Callable[[_Found], Message]) -> None:
        """Raises Unavailable when four are at it already (TOO_MANY_QUERIES), and for a caller that does not read
        (ANSWER_NOT_READ)."""
        if self._long_calls >= MOST_LONG_CALLS:
            problem = f"{MOST_LONG_CALLS} checks and restores are running: try again when one has ended"
            raise Unavailable(problem, reason="TOO_MANY_QUERIES", retry_after_s=10.0)
        self._long_calls += 1
        try:
            async for one in found:
                await self._write(context, write(one))
        finally:
            self._long_calls -= 1
            if isinstance(found, AsyncGenerator):
                await found.aclose()  # at once: its work stops when its caller has gone

    async def _write(self, context: _Context, message: Message) -> None:
        try:
            async with asyncio.timeout(self._unread_s):
                await context.write(message)
        except TimeoutError:
            problem = f"the progress was not read for {self._unread_s:g} s: start again and read it"
            raise Unavailable(problem, reason="ANSWER_NOT_READ") from None


class _Asking(Protocol):
    """A request with a filter."""

    @property
    def filter(self) -> archive_pb2.ArchiveFilter: ...


def read_wanted(request: _Asking) -> Wanted:
    """Raises InvalidArgument for a time that is none, and (INVALID_FILTER) for the rest, naming every problem by its field."""
    asked = request.filter
    wanted = Wanted(
        tuple(asked.regions),
        read_time(asked, "start_time", "filter.start_time"),
        read_time(asked, "end_time", "filter.end_time"),
    )
    check_wanted(wanted)
    return wanted


def write_object(row: ManifestRow) -> archive_pb2.ArchiveObject:
    """A row of the manifest as a message."""
    return archive_pb2.ArchiveObject(
        path=row.path,
        reading_count=row.reading_count,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        first_time=write_time(row.first_us),
        last_time=write_time(row.last_us),
        log_partition=row.partition,
        first_offset=row.first_offset,
        last_offset=row.last_offset,
        stored_time=write_time(row.stored_us),
        log_id=row.log_id,
        log_topic=row.topic,
    )


def _checked(found: Checked) -> archive_pb2.VerifyArchiveResponse:
    message = archive_pb2.VerifyArchiveResponse(checked_count=found.checked_count, total_count=found.total_count)
    if found.damaged is not None:
        damaged = found.damaged
        message.damaged.CopyFrom(write_object(damaged.row) if damaged.row else archive_pb2.ArchiveObject(path=damaged.path))
        message.problem = damaged.problem
    return message


def _restored(found: Restored) -> archive_pb2.RestoreReadingsResponse:
    return archive_pb2.RestoreReadingsResponse(
        restored_count=found.restored_count,
        total_count=found.total_count,
        positions=found.positions,
        unproven_count=found.unproven_count,
    )
