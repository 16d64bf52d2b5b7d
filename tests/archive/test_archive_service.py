"""ArchiveService over the wire: lists, checks and restores with progress, and says what was wrong with a request."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from waterquality.v1 import archive_pb2, archive_pb2_grpc

from archive_svc.archive_service import MOST_LONG_CALLS, ArchiveService
from archive_svc.manifest import Wanted
from archive_svc.restore import Restored
from archive_svc.verify import Verify
from mesh.errors import WaterError, from_rpc
from tests.archive.archiving import PATIENCE_S, Archiving, Place
from tests.builders import START_US


class Steps:
    """Stands for a restore of its own file: two steps, and then as long as `go_on` lets it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Wanted, str]] = []
        self.go_on = asyncio.Event()
        self.left = 0

    async def run(self, wanted: Wanted, source: str) -> AsyncIterator[Restored]:
        self.asked.append((wanted, source))
        try:
            yield Restored(5, 10, 2, ("a",))
            await self.go_on.wait()
            yield Restored(10, 10, 2, ("a", "b"))
        finally:
            self.left += 1


@pytest.fixture
async def steps() -> Steps:
    return Steps()


@pytest.fixture
async def stub(archiving: Archiving, place: Place, steps: Steps) -> AsyncIterator["archive_pb2_grpc.ArchiveServiceAsyncStub"]:
    await archiving.put_many()
    await archiving.archive_all(place)
    server = grpc.aio.server()
    service = ArchiveService(place.manifest, Verify(place.manifest, place.objects), steps, unread_s=5.0)
    archive_pb2_grpc.add_ArchiveServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            found: archive_pb2_grpc.ArchiveServiceAsyncStub = archive_pb2_grpc.ArchiveServiceStub(channel)
            yield found
    finally:
        await server.stop(0)


async def error_of(call: object) -> WaterError:
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            [one async for one in call]
        else:
            await call  # type: ignore[misc]
    except grpc.RpcError as error:
        return from_rpc(error)
    raise AssertionError("the call should have failed")


async def test_objects_are_listed_with_all_that_the_manifest_says(
    stub: "archive_pb2_grpc.ArchiveServiceAsyncStub", place: Place
) -> None:
    rows = await place.manifest_rows()
    answer = await stub.ListObjects(archive_pb2.ListObjectsRequest(page_size=2))
    more = await stub.ListObjects(archive_pb2.ListObjectsRequest(page_token=answer.next_page_token))
    assert more.next_page_token == ""
    found = [*answer.objects, *more.objects]
    assert len(answer.objects) == 2
    assert [one.path for one in found] == [row.path for row in rows]
    first, row = found[0], rows[0]
    assert (first.reading_count, first.size_bytes, first.sha256) == (row.reading_count, row.size_bytes, row.sha256)
    assert (first.log_id, first.log_topic, first.log_partition) == (row.log_id, row.topic, row.partition)
    assert (first.first_offset, first.last_offset) == (row.first_offset, row.last_offset)
    times = (first.first_time, first.last_time, first.stored_time)
    assert [time.ToMicroseconds() for time in times] == [row.first_us, row.last_us, row.stored_us]


async def test_a_check_streams_progress_and_names_the_damaged_object(
    stub: "archive_pb2_grpc.ArchiveServiceAsyncStub", place: Place
) -> None:
    row = (await place.manifest_rows())[0]
    await place.objects.delete(row.path)
    answers = [answer async for answer in stub.VerifyArchive(archive_pb2.VerifyArchiveRequest())]
    assert answers[-1].checked_count == answers[-1].total_count == len(await place.manifest_rows())
    damaged = [answer for answer in answers if answer.HasField("damaged")]
    assert [(one.damaged.path, one.damaged.sha256, one.problem) for one in damaged] == [
        (row.path, row.sha256, "the object is missing")
    ]
    assert not any(answer.problem for answer in answers if not answer.HasField("damaged"))


async def test_a_restore_is_asked_for_what_is_wanted_and_ends_when_its_caller_goes(
    stub: "archive_pb2_grpc.ArchiveServiceAsyncStub", steps: Steps
) -> None:
    wanted = archive_pb2.ArchiveFilter(regions=["north"], start_time=Timestamp(seconds=START_US // 1_000_000))
    request = archive_pb2.RestoreReadingsRequest(filter=wanted, source="old")
    call = stub.RestoreReadings(request)
    first = await call.read()
    assert isinstance(first, archive_pb2.RestoreReadingsResponse)
    assert (first.restored_count, first.total_count, list(first.positions)) == (5, 10, ["a"])
    assert steps.asked == [(Wanted(("north",), START_US), "old")]
    call.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while not steps.left:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
    steps.go_on.set()
    assert [one.restored_count async for one in stub.RestoreReadings(request)] == [5, 10]


async def test_only_a_few_checks_and_restores_run_at_a_time(
    stub: "archive_pb2_grpc.ArchiveServiceAsyncStub", steps: Steps
) -> None:
    calls = [stub.RestoreReadings(archive_pb2.RestoreReadingsRequest()) for _ in range(MOST_LONG_CALLS)]
    readers = [aiter(call) for call in calls]
    for reader in readers:
        await anext(reader)
    error = await error_of(stub.VerifyArchive(archive_pb2.VerifyArchiveRequest()))
    assert (error.reason, error.retry_after_s) == ("TOO_MANY_QUERIES", 10.0)
    steps.go_on.set()
    for reader in readers:
        assert [one.restored_count async for one in reader] == [10]
    assert [one async for one in stub.VerifyArchive(archive_pb2.VerifyArchiveRequest())]


async def test_a_wrong_filter_is_named_by_every_call(stub: "archive_pb2_grpc.ArchiveServiceAsyncStub") -> None:
    wrong = archive_pb2.ArchiveFilter(regions=["../x"], start_time=Timestamp(seconds=5), end_time=Timestamp(seconds=5))
    for call in (
        stub.ListObjects(archive_pb2.ListObjectsRequest(filter=wrong)),
        stub.VerifyArchive(archive_pb2.VerifyArchiveRequest(filter=wrong)),
        stub.RestoreReadings(archive_pb2.RestoreReadingsRequest(filter=wrong)),
    ):
        error = await error_of(call)
        assert (error.reason, sorted(error.fields)) == ("INVALID_FILTER", ["filter.end_time", "filter.regions"])
    far = archive_pb2.ArchiveFilter(start_time=Timestamp(seconds=2**50))
    error = await error_of(stub.ListObjects(archive_pb2.ListObjectsRequest(filter=far)))
    assert list(error.fields) == ["filter.start_time"]
