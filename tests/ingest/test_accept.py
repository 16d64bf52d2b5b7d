"""Laws 2 and 3 on the wire: what an acknowledgement covers, and what becomes of broken frames and readings."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import psycopg
import pytest
from waterquality.v1 import ingest_pb2, ingest_pb2_grpc
from waterquality.v1.reading_pb2 import ReadingColumns

from ingest_svc.wiring import Accepting, wire_accept
from mesh import errors
from mesh.adapters.postgres_log import PostgresLog, open_postgres_log
from mesh.clock import SystemClock
from mesh.codec.columns import write_columns
from mesh.codec.stamp import read_stamp
from mesh.ports import Partition, Stored
from mesh.settings import Settings
from mesh.topics import ACCEPTED, BACKFILL, REFUSED, partition_of
from tests.builders import a_reading, readings_of, some_readings
from tests.conftest import FreshDatabase
from tests.ingest.peer import Peer, connected, serving

SETTINGS = Settings(max_batch_readings=1000, window_batches=4)


@pytest.fixture
def accepting(postgres_log: PostgresLog) -> Accepting:
    return wire_accept(SETTINGS, postgres_log, SystemClock())


@pytest.fixture
async def target(accepting: Accepting) -> AsyncIterator[str]:
    async with serving(accepting) as address:
        yield address


async def logged(log: PostgresLog, topic: str, gateway_id: str = "g-1", region: str = "north") -> list[Stored]:
    """All records of a gateway in a topic."""
    partition = Partition(topic, partition_of(region, gateway_id, log.partition_count))
    return list(await log.read(partition, 0, 10_000))


async def test_acknowledged_means_in_the_log(target: str, postgres_log: PostgresLog) -> None:
    async with connected(target) as (peer,):
        opened = await peer.open()
        assert (opened.window_batches, opened.max_batch_readings) == (4, 1000)
        for sequence in range(7, 17):
            await peer.send(sequence, some_readings(20))
            await peer.acknowledged(sequence)
            records = await logged(postgres_log, ACCEPTED)
            assert len(records) == sequence - 6
    assert [read_stamp(stored.record.headers).count for stored in records] == [20] * 10


async def test_the_last_ack_comes_after_a_half_close(target: str) -> None:
    async with connected(target) as (peer,):
        await peer.open()
        for sequence in (1, 2, 3):
            await peer.send(sequence, some_readings(5))
        await peer.call.done_writing()
        await peer.acknowledged(3)
        assert await peer.read() is None
        assert await peer.call.code() == grpc.StatusCode.OK


async def test_lanes_are_separate_topics(target: str, postgres_log: PostgresLog) -> None:
    async with connected(target, 2) as (live, backfill):
        await live.open()
        await backfill.open(backfill=True)
        await live.send(1, some_readings(3))
        await backfill.send(1, some_readings(4))
        await live.acknowledged(1)
        await backfill.acknowledged(1)
    assert [len(await logged(postgres_log, topic)) for topic in (ACCEPTED, BACKFILL)] == [1, 1]


async def test_a_stream_that_does_not_open_first_is_told_so(target: str) -> None:
    async with connected(target) as (peer,):
        await peer.send(1, some_readings(1))
        error = await peer.failure()
    assert isinstance(error, errors.InvalidArgument)
    assert error.reason == "NOT_OPENED"


@pytest.mark.parametrize("region", ["", "../../", "North", "a" * 21, "north/../../etc", "nörd"])
async def test_a_region_outside_its_alphabet_is_refused_by_name(target: str, region: str) -> None:
    async with connected(target) as (peer,):
        await peer.call.write(ingest_pb2.StreamBatchesRequest(open=ingest_pb2.StreamOpen(gateway_id="g", region=region)))
        error = await peer.failure()
    assert (error.reason, list(error.fields)) == ("INVALID_REGION", ["open.region"])


@pytest.mark.parametrize("gateway_id", ["", "a b", "a" * 65, "ä", "a/b"])
async def test_a_gateway_id_outside_its_alphabet_is_refused_by_name(target: str, gateway_id: str) -> None:
    async with connected(target) as (peer,):
        await peer.call.write(ingest_pb2.StreamBatchesRequest(open=ingest_pb2.StreamOpen(gateway_id=gateway_id, region="r")))
        error = await peer.failure()
    assert (error.reason, list(error.fields)) == ("INVALID_GATEWAY", ["open.gateway_id"])


@pytest.mark.parametrize(("first", "second"), [(1, 3), (5, 5), (5, 4), (0, 1), (-1, 0)])
async def test_a_gap_in_the_sequence_ends_the_stream_after_acknowledging_what_came_before(
    target: str, first: int, second: int
) -> None:
    async with connected(target) as (peer,):
        await peer.open()
        await peer.send(first, some_readings(2))
        await peer.send(second, some_readings(2))
        if first > 0:
            await peer.acknowledged(first)
        error = await peer.failure()
    assert (type(error), error.reason) == (errors.InvalidArgument, "SEQUENCE_GAP")


async def test_garbage_in_a_frame_is_an_error_of_ours(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.stream_stream("/waterquality.v1.IngestService/StreamBatches")()
        opening = ingest_pb2.StreamOpen(gateway_id="g", region="r")
        await call.write(ingest_pb2.StreamBatchesRequest(open=opening).SerializeToString())
        await call.write(b"\xff\xfe garbage")
        error = await Peer(call).failure()
    assert (type(error), error.reason) == (errors.InvalidArgument, "UNREADABLE_FRAME")


async def test_an_oversized_frame_ends_the_stream_without_retry(target: str) -> None:
    async with connected(target) as (peer,):
        await peer.open()
        await peer.send(1, some_readings(40_000))
        error = await peer.failure()
    assert isinstance(error, errors.TooLarge)
    assert error.retry_after_s is None


async def test_an_oversized_batch_is_refused_and_the_stream_goes_on(target: str, postgres_log: PostgresLog) -> None:
    async with connected(target) as (peer,):
        await peer.open()
        await peer.send(1, some_readings(1001))
        await peer.send(2, some_readings(2))
        await peer.acknowledged(2)
    (rejection,) = peer.rejections
    assert (rejection.sequence, rejection.reading_count, list(rejection.indexes)) == (1, 1001, [])
    assert rejection.reason == ingest_pb2.REJECTION_REASON_BATCH_TOO_LARGE
    assert read_stamp((await logged(postgres_log, REFUSED))[0].record.headers).reasons == {9: 1001}


async def test_unequal_columns_refuse_the_whole_batch_and_the_stream_goes_on(target: str, postgres_log: PostgresLog) -> None:
    async with connected(target) as (peer,):
        await peer.open()
        await peer.send(1, ReadingColumns(sensor_id=[1, 2], measured_at_us=[1, 2], ph=[7.0, 7.0, 7.0]))
        await peer.send(2, some_readings(2))
        await peer.acknowledged(2)
    (rejection,) = peer.rejections
    assert (rejection.reason, rejection.reading_count) == (ingest_pb2.REJECTION_REASON_COLUMNS_UNEQUAL, 3)
    assert len(await logged(postgres_log, REFUSED)) == 1


async def test_every_refused_reading_is_named_once_and_the_others_are_stored(target: str, postgres_log: PostgresLog) -> None:
    now = "2026-01-01"
    batch = readings_of(
        (1, now, {"ph": 7.0}),
        (0, now, {"ph": 7.0}),
        (-5, now, {"ph": 7.0}),
        (2, "1970-01-02", {"ph": 7.0}),
        (2, "2100-01-01", {"ph": 7.0}),
        (3, now, {}),
        (4, now, {"redox_mv": math.inf}),
        (5, now, {"ph": 17.0}),
    )
    async with connected(target) as (peer,):
        await peer.open()
        await peer.send(1, batch)
        await peer.acknowledged(1)
    assert {(r.reason, r.parameter, tuple(r.indexes)) for r in peer.rejections} == {
        (ingest_pb2.REJECTION_REASON_INVALID_SENSOR, 0, (1, 2)),
        (ingest_pb2.REJECTION_REASON_TOO_OLD, 0, (3,)),
        (ingest_pb2.REJECTION_REASON_IN_THE_FUTURE, 0, (4,)),
        (ingest_pb2.REJECTION_REASON_NO_VALUES, 0, (5,)),
        (ingest_pb2.REJECTION_REASON_NOT_FINITE, 7, (6,)),
    }
    (accepted,) = await logged(postgres_log, ACCEPTED)
    assert read_stamp(accepted.record.headers).count == 2


async def test_an_empty_batch_is_acknowledged_like_any_other(target: str, postgres_log: PostgresLog) -> None:
    async with connected(target) as (peer,):
        await peer.open()
        await peer.send(1, ReadingColumns())
        await peer.acknowledged(1)
    assert await logged(postgres_log, ACCEPTED) == []


async def test_a_batch_of_nothing_but_nan_is_refused_reading_by_reading(target: str) -> None:
    columns = ReadingColumns(sensor_id=[1, 2], measured_at_us=[1_767_225_600_000_000] * 2, ph=[math.nan, math.nan])
    async with connected(target) as (peer,):
        await peer.open()
        await peer.send(1, columns)
        await peer.acknowledged(1)
    assert peer.position == ""
    assert [(r.reason, r.reading_count) for r in peer.rejections] == [(ingest_pb2.REJECTION_REASON_NO_VALUES, 2)]


async def test_a_gateway_that_ignores_the_window_is_stopped_after_an_ack_of_what_it_sent_within(
    fresh_database: FreshDatabase,
) -> None:
    url = await fresh_database()
    async with (
        open_postgres_log(url, 4, SystemClock()) as log,
        serving(wire_accept(SETTINGS, log, SystemClock())) as address,
        connected(address) as (peer,),
        await psycopg.AsyncConnection.connect(url.replace("+psycopg", "")) as slow_disk,
    ):
        await slow_disk.execute("SELECT FROM log.partitions FOR UPDATE")
        await peer.open()
        for sequence in range(1, 6):
            await peer.send(sequence, some_readings(10))
        await slow_disk.rollback()
        await peer.acknowledged(4)
        error = await peer.failure()
    assert (type(error), error.reason) == (errors.InvalidArgument, "WINDOW_EXCEEDED")


async def test_a_newer_stream_of_a_gateway_ends_the_older_one_of_the_same_lane(target: str) -> None:
    async with connected(target, 3) as (older, newer, other_lane):
        await older.open()
        await other_lane.open(backfill=True)
        await newer.open()
        error = await older.failure()
        await newer.send(1, some_readings(2))
        await newer.acknowledged(1)
        await other_lane.send(1, some_readings(2))
        await other_lane.acknowledged(1)
    assert (type(error), error.reason) == (errors.Conflict, "NEWER_STREAM")


async def test_the_same_batch_a_thousand_times_is_accepted_each_time(target: str, postgres_log: PostgresLog) -> None:
    readings = some_readings(3)
    async with connected(target) as (peer,):
        await peer.open()
        for sequence in range(1, 1001):
            await peer.send(sequence, readings)
            if sequence % 4 == 0:
                await peer.acknowledged(sequence)
    assert len(await logged(postgres_log, ACCEPTED)) == 1000


async def test_a_submitted_batch_is_durable_when_the_call_returns(target: str, postgres_log: PostgresLog) -> None:
    batch = readings_of((1, "2026-01-01", {"ph": 7.0}), (0, "2026-01-01", {"ph": 7.0}))
    async with grpc.aio.insecure_channel(target) as channel:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        opening = ingest_pb2.StreamOpen(gateway_id="g-1", region="north")
        answer = await stub.SubmitBatch(ingest_pb2.SubmitBatchRequest(open=opening, readings=write_columns(batch)))
    assert len(await logged(postgres_log, ACCEPTED)) == 1
    assert [(r.reason, list(r.indexes)) for r in answer.rejections] == [(ingest_pb2.REJECTION_REASON_INVALID_SENSOR, [1])]
    assert answer.position


async def test_a_draining_server_says_closing_acknowledges_and_then_lets_go(accepting: Accepting, target: str) -> None:
    async with connected(target, 2) as (peer, late):
        await peer.open()
        await peer.send(1, some_readings(2))
        await peer.acknowledged(1)
        drain = asyncio.ensure_future(accepting.streams.drain(1.0, SystemClock()))
        frame = await peer.read()
        assert frame.WhichOneof("frame") == "closing"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await late.open()
        assert errors.from_rpc(refused.value).reason == "SHUTTING_DOWN"
        error = await peer.failure()
        await drain
    assert isinstance(error, errors.Unavailable)
    assert (error.reason, error.retry_after_s) == ("SHUTTING_DOWN", 1.0)


async def test_a_stream_that_dies_does_not_disturb_another(target: str) -> None:
    async with connected(target, 2) as (healthy, broken):
        await healthy.open()
        await broken.open("g-2")
        await broken.send(1, np_garbage())
        await healthy.send(1, a_reading())
        await broken.send(9, a_reading())
        assert (await broken.failure()).reason == "SEQUENCE_GAP"
        await healthy.send(2, a_reading())
        await healthy.acknowledged(2)


def np_garbage() -> ReadingColumns:
    """Columns full of extremes."""
    return ReadingColumns(
        sensor_id=[np.iinfo(np.int64).min] * 3, measured_at_us=[np.iinfo(np.int64).max] * 3, ph=[math.inf, -math.inf, math.nan]
    )
