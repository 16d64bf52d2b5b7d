"""Bad questions to a whole running system: each is answered with what is wrong, and none keeps the gateways waiting."""

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from waterquality.v1 import catalog_pb2, catalog_pb2_grpc, ledger_pb2, ledger_pb2_grpc, query_pb2_grpc
from waterquality.v1.query_pb2 import (
    AggregateReadingsRequest,
    Freshness,
    GetLatestRequest,
    ListReadingsRequest,
    ReadingFilter,
    StreamReadingsRequest,
    WatchReadingsRequest,
)
from waterquality.v1.reading_pb2 import PARAMETER_PH

from mesh.errors import InvalidArgument, WaterError, from_rpc
from tests.builders import START_US, some_readings
from tests.flows.accounts import Account, account_of
from tests.flows.deaf import SMALL_WINDOW
from tests.flows.healthy import Healthy
from tests.flows.process import System, eventually
from tests.ingest.peer import Peer, connected

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
SENSORS = range(7001, 7011)
COUNT = 200_000
MINE = ReadingFilter(sensor_ids=SENSORS)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def stored(shared_system: System, healthy: Healthy) -> None:
    """Enough for questions that are too large."""
    batches = [some_readings(10_000, SENSORS, start=START_US + i * 10_000_000_000) for i in range(COUNT // 10_000)]
    async with connected(shared_system.target) as (peer,):
        await peer.open("asked")
        for sequence, batch in enumerate(batches, 1):
            await peer.acknowledged(sequence - 10)  # half a window
            await peer.send(sequence, batch)
        await peer.acknowledged(len(batches))
    assert await account_of(shared_system.target, "asked") == Account(COUNT, {}, COUNT)


class Asking:
    """Every service that answers questions, with a deadline on everything."""

    def __init__(self, channel: Any) -> None:
        self._stubs: list[Any] = [
            query_pb2_grpc.QueryServiceStub(channel),
            ledger_pb2_grpc.LedgerServiceStub(channel),
            catalog_pb2_grpc.CatalogServiceStub(channel),
        ]

    async def ask(self, request: Message) -> Any:
        """The answer, or all answers of a stream."""
        name = type(request).__name__.removesuffix("Request")
        call = next(getattr(stub, name) for stub in self._stubs if hasattr(stub, name))(request, timeout=30)
        return [frame async for frame in call] if name in ("StreamReadings", "WatchReadings") else await call

    async def refusal(self, request: Message) -> WaterError | None:
        """How the question is refused, or None where it is answered."""
        try:
            await self.ask(request)
        except grpc.aio.AioRpcError as refused:
            return from_rpc(refused)
        return None

    async def failure(self, request: Message) -> WaterError:
        """How the question is refused."""
        error = await self.refusal(request)
        assert error is not None, f"answered: {request}"
        return error


@pytest_asyncio.fixture(loop_scope="module")
async def asking(target: str) -> AsyncIterator[Asking]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield Asking(channel)


def hours(count: float) -> ReadingFilter:
    """Everything of so many hours."""
    start, end = Timestamp(), Timestamp()
    start.FromMicroseconds(START_US)
    end.FromMicroseconds(START_US + round(count * 3_600_000_000))
    return ReadingFilter(start_time=start, end_time=end)


@pytest.mark.parametrize("filter", [ReadingFilter(), hours(1.001), hours(1_000_000), ReadingFilter(parameters=[PARAMETER_PH])])
async def test_a_filter_over_everything_is_refused(filter: ReadingFilter, asking: Asking) -> None:
    for request in (
        ListReadingsRequest(filter=filter),
        StreamReadingsRequest(filter=filter),
        AggregateReadingsRequest(filter=filter, bucket_duration=Duration(seconds=3600)),
    ):
        error = await asking.failure(request)
        assert isinstance(error, InvalidArgument), request
        assert "hour" in error.message, error.message


async def test_a_token_of_another_question_is_refused(asking: Asking) -> None:
    listed = await asking.ask(ListReadingsRequest(filter=MINE, page_size=10))
    latest = await asking.ask(GetLatestRequest(filter=MINE, page_size=3))
    ledger = await asking.ask(ledger_pb2.GetLedgerRequest(page_size=1))
    series = await asking.ask(AggregateReadingsRequest(filter=MINE, bucket_duration=Duration(seconds=3600), page_size=1))
    tokens = [answer.next_page_token for answer in (listed, latest, ledger, series)]
    assert all(tokens)
    other = ReadingFilter(sensor_ids=SENSORS[:-1])
    refusals: dict[str, list[Message]] = {
        "page_token": [
            *(ListReadingsRequest(filter=other, page_size=10, page_token=token) for token in tokens),
            *(ListReadingsRequest(filter=MINE, page_token=token) for token in tokens[1:]),
            *(GetLatestRequest(filter=other, page_token=token) for token in tokens),
            *(AggregateReadingsRequest(filter=MINE, page_token=token) for token in tokens),
            *(ledger_pb2.GetLedgerRequest(gateway_ids=["asked"], page_token=token) for token in tokens),
        ],
        "resume_token": [StreamReadingsRequest(filter=MINE, resume_token=token) for token in tokens],
    }
    for field, requests in refusals.items():
        for request in requests:
            error = await asking.failure(request)
            assert (type(error), list(error.fields)) == (InvalidArgument, [field]), request
            assert error.reason in ("QUESTION_CHANGED", "INVALID_TOKEN")


FORGED = {
    "nested": "[" * 200_000,
    "no list": "7",
    "null": "null",
    "infinite": '["accepted", 0, Infinity]',
    "long number": f'["accepted", 0, {"9" * 4000}]',
    "beyond bigint": f'["accepted", 0, {2**64}]',
    "negative": f'["accepted", -7, {-(2**64)}]',
    "text": '["accepted", "0", "1"]',
    "other topic": '["dead", 0, 1]',
    "many": ",".join(["[1, 2, 3]"] * 40_000),
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
async def test_a_forged_token_is_the_callers_fault_or_asks_for_nothing_more(content: str, asking: Asking, target: str) -> None:
    async with connected(target) as (peer,):
        await peer.open("forger")
        await peer.send(1, some_readings(1))
        await peer.acknowledged(1)
    page_token = (await asking.ask(ListReadingsRequest(filter=MINE, page_size=10))).next_page_token
    position, cursor = _altered(peer.position, "at", f"[{content}]"), _altered(page_token, "a", f"[{content}]")
    soon = Duration(nanos=50_000_000)
    for request in (
        ListReadingsRequest(filter=MINE, page_token=cursor),
        ListReadingsRequest(filter=MINE, freshness=Freshness(at_least=[position], wait_duration=soon)),
        ledger_pb2.GetLedgerRequest(at_least=[position], wait_duration=soon),
    ):
        error = await asking.refusal(request)
        assert error is None or isinstance(error, InvalidArgument) or error.reason == "NOT_YET_READABLE", error


def _altered(token: str, name: str, value: str) -> str:
    """A token as a forger makes it: one part of its JSON replaced, which need not be JSON itself."""
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    content[name] = "HERE"
    return base64.urlsafe_b64encode(json.dumps(content).replace('"HERE"', value).encode()).decode()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ListReadingsRequest(filter=MINE, page_size=-1), "page_size"),
        (ListReadingsRequest(filter=ReadingFilter(sensor_ids=[0])), "filter.sensor_ids"),
        (ListReadingsRequest(filter=ReadingFilter(sensor_ids=range(1, 10_002))), "filter.sensor_ids"),
        (ListReadingsRequest(filter=ReadingFilter(regions=["../../"])), "filter.regions"),
        (ListReadingsRequest(filter=ReadingFilter(regions=["n'; DROP TABLE sensor_readings; --"])), "filter.regions"),
        (StreamReadingsRequest(filter=ReadingFilter(sensor_ids=[1], start_time=Timestamp(seconds=2**62))), "filter.start_time"),
        (AggregateReadingsRequest(filter=MINE, percentiles=[math.nan]), "percentiles"),
        (AggregateReadingsRequest(filter=MINE, percentiles=[1, 2, 3, 4, 5, 6]), "percentiles"),
        (AggregateReadingsRequest(filter=MINE, bucket_duration=Duration(nanos=1)), "bucket_duration"),
        (WatchReadingsRequest(filter=ReadingFilter(sensor_ids=[-5])), "filter.sensor_ids"),
        (GetLatestRequest(filter=MINE, freshness=Freshness(at_least=["x"] * 101)), "freshness.at_least"),
        (GetLatestRequest(filter=MINE, freshness=Freshness(wait_duration=Duration(seconds=-(2**60)))), "freshness.wait_duration"),
    ],
)
async def test_a_question_out_of_bounds_is_refused_by_field(request_: Message, field: str, asking: Asking) -> None:
    error = await asking.failure(request_)
    assert (type(error), list(error.fields)) == (InvalidArgument, [field])
    assert len(error.message) < 300


@pytest.mark.parametrize(
    "request_",
    [
        catalog_pb2.GetSiteRequest(site_id="a\0b"),
        catalog_pb2.ListSitesRequest(regions=["\0"]),
        catalog_pb2.ListSensorsRequest(site_ids=["\0"]),
        catalog_pb2.UpdateSiteRequest(site=catalog_pb2.Site(site_id="\0")),
        ListReadingsRequest(filter=ReadingFilter(site_ids=["\0"])),
        ledger_pb2.GetLedgerRequest(gateway_ids=["\0"]),
    ],
)
async def test_a_text_that_no_database_can_hold_is_the_callers_fault(request_: Message, asking: Asking) -> None:
    assert isinstance(await asking.failure(request_), InvalidArgument)


async def _place(stub: Any) -> Any:
    """A stream that has begun, which waits for a place as long as it must, and keeps it."""
    while True:
        call = stub.StreamReadings(StreamReadingsRequest(filter=MINE))
        try:
            await call.read()
            return call
        except grpc.aio.AioRpcError as failure:
            error = from_rpc(failure)
            assert error.reason == "TOO_MANY_QUERIES"
            await asyncio.sleep(error.retry_after_s or 1)


async def test_partners_that_never_read_their_stream_are_let_go_and_then_others_get_their_places(
    target: str, healthy: Healthy
) -> None:
    before = healthy.rss_bytes()
    async with grpc.aio.insecure_channel(target, options=SMALL_WINDOW) as channel:
        stub: Any = query_pb2_grpc.QueryServiceStub(channel)
        calls = [stub.StreamReadings(StreamReadingsRequest(filter=MINE)) for _ in range(8)]
        calls += [stub.WatchReadings(WatchReadingsRequest()) for _ in range(8)]
        for call in calls[:8]:
            await call.read()
        acknowledged = healthy.acknowledged
        await eventually(lambda: healthy.acknowledged > acknowledged + 1000, 20, lambda: f"slow: {healthy.acknowledged}")
        others = [await _place(stub) for _ in range(8)]
        for call in others:
            call.cancel()
        assert healthy.rss_bytes() < before + 8 * 64 * 2**20
        for call in calls[:8]:
            assert (await Peer(call).failure()).reason == "ANSWER_NOT_READ"
        for call in calls:
            call.cancel()
