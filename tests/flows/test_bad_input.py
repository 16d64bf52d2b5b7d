"""Every kind of bad input through a whole running system: a clear error or a rejection by reason, and the ledger knows of it."""

import asyncio
import math
from typing import Any

import grpc
import numpy as np
import pytest
from waterquality.v1 import ingest_pb2, ingest_pb2_grpc
from waterquality.v1.reading_pb2 import ReadingColumns

from mesh.codec.columns import write_columns
from mesh.errors import Conflict, InvalidArgument, TooLarge, Unavailable, WaterError, from_rpc
from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.flows.accounts import Account, account_of
from tests.flows.deaf import deaf_gateways, failure
from tests.flows.healthy import Healthy
from tests.ingest.peer import connected
from water.parameter import PARAMETERS
from water.readings import Readings, concatenate

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
STREAM_BATCHES = "/waterquality.v1.IngestService/StreamBatches"
COLUMNS = [parameter.column for parameter in PARAMETERS]


def failure_of(target: str, *frames: bytes) -> WaterError:
    """How a stream of these frames, then a half-close, ends. By the synchronous client, as tests/flows/deaf.py says."""
    with grpc.insecure_channel(target) as channel:
        stream: Any = channel.stream_stream(STREAM_BATCHES)
        return failure(stream(iter(frames), timeout=20))


def opening(gateway_id: str, region: str = "north") -> bytes:
    """An open frame."""
    return ingest_pb2.StreamBatchesRequest(open=ingest_pb2.StreamOpen(gateway_id=gateway_id, region=region)).SerializeToString()


def batch(sequence: int) -> bytes:
    """A batch frame."""
    columns = write_columns(a_reading())
    return ingest_pb2.StreamBatchesRequest(batch=ingest_pb2.Batch(sequence=sequence, readings=columns)).SerializeToString()


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ((), "NOT_OPENED"),
        ((batch(1), opening("late")), "NOT_OPENED"),
        ((b"",), "NOT_OPENED"),
        ((b"\xff\xfe\xfd",), "UNREADABLE_FRAME"),
        ((opening("twice"), opening("twice")), "OPENED_TWICE"),
        ((opening("nothing"), b""), "UNREADABLE_FRAME"),
        ((opening("unknown"), b"\x9a\x06\x03abc"), "UNREADABLE_FRAME"),
        ((opening("north", "../../"),), "INVALID_REGION"),
        ((opening("north", "north\n"),), "INVALID_REGION"),
        ((opening("../../etc"),), "INVALID_GATEWAY"),
        ((opening("a\0b"),), "INVALID_GATEWAY"),
        ((opening("gap"), batch(0)), "SEQUENCE_GAP"),
        ((opening("gap"), batch(-(2**63))), "SEQUENCE_GAP"),
        ((opening("gap"), batch(1), batch(3)), "SEQUENCE_GAP"),
        ((opening("gap"), batch(2), batch(2)), "SEQUENCE_GAP"),
        ((opening("gap"), batch(2**63 - 1), batch(-(2**63))), "SEQUENCE_GAP"),
    ],
)
async def test_a_broken_frame_ends_its_stream_and_says_why(frames: tuple[bytes, ...], reason: str, target: str) -> None:
    error = await asyncio.to_thread(failure_of, target, *frames)
    assert (type(error), error.reason) == (InvalidArgument, reason)
    assert len(error.message) < 300


async def test_what_came_before_a_gap_is_stored(target: str) -> None:
    async with connected(target) as (peer,):
        await peer.open("before-gap")
        for sequence in (5, 6, 7, 9):
            await peer.send(sequence, some_readings(10, sensors=[4000], start=START_US + sequence * 100_000_000))
        await peer.acknowledged(7)
        assert (await peer.failure()).reason == "SEQUENCE_GAP"
    assert await account_of(target, "before-gap") == Account(accepted=30, stored=30)


async def test_an_oversized_frame_ends_the_stream_and_an_oversized_batch_does_not(target: str) -> None:
    async with connected(target) as (peer,):
        await peer.open("oversized")
        await peer.send(1, some_readings(10_001))
        bytes_too_many = some_readings(10_000)
        await peer.send(2, concatenate([bytes_too_many, bytes_too_many]))
        await peer.send(3, some_readings(5, sensors=[4100]))
        await peer.acknowledged(3)
        await peer.send(4, some_readings(40_000))
        error = await peer.failure()
    assert (type(error), error.retry_after_s) == (TooLarge, None)
    assert [(one.sequence, one.reading_count) for one in peer.rejections] == [(1, 10_001), (2, 20_000)]
    assert await account_of(target, "oversized") == Account(5, {"BATCH_TOO_LARGE": 30_001}, 5)


async def test_columns_of_unequal_length_refuse_the_batch_whatever_they_hold(target: str) -> None:
    broken = [
        ReadingColumns(sensor_id=[1, 2], measured_at_us=[START_US], ph=[7.0, 7.0]),
        ReadingColumns(sensor_id=[1], measured_at_us=[START_US], ph=[7.0] * 10_000),
        ReadingColumns(ph=[7.0, math.nan]),
        ReadingColumns(sensor_id=[0, -1]),
        ReadingColumns(measured_at_us=[2**63 - 1] * 3),
        *(ReadingColumns(sensor_id=[1, 2], measured_at_us=[1, 2], **{column: [1.0]}) for column in COLUMNS),
    ]
    counts = [2, 10_000, 2, 2, 3, *([2] * len(COLUMNS))]
    async with connected(target) as (peer,):
        await peer.open("unequal")
        for sequence, columns in enumerate(broken, 1):
            await peer.send(sequence, columns)
        await peer.send(len(broken) + 1, a_reading(4200))
        await peer.acknowledged(len(broken) + 1)
    assert [one.reading_count for one in peer.rejections] == counts
    assert await account_of(target, "unequal") == Account(1, {"COLUMNS_UNEQUAL": sum(counts)}, 1)


async def test_each_reading_that_cannot_be_stored_is_refused_for_one_reason_and_the_others_are_stored(target: str) -> None:
    good, values = START_US, {"ph": 7.0}
    rows: list[tuple[int, int | str, dict[str, float]]] = [
        *((sensor, good, values) for sensor in (0, -1, -(2**63))),
        *((4300, at, values) for at in ("1970-01-01", "1999-12-31T23:59:59", -(2**63), 0, -1)),
        *((4300, at, values) for at in ("2100-01-01", "2262-01-01", 2**63 - 1)),
        *((4300, good, {column: sign * math.inf}) for column in COLUMNS for sign in (1, -1)),
        (4300, good, dict.fromkeys(COLUMNS, math.inf)),
        (4300, good, dict.fromkeys(COLUMNS, math.nan)),
        (-5, "2100-01-01", dict.fromkeys(COLUMNS, math.inf)),
        *((4300 + number, good, {column: 3.4e38}) for number, column in enumerate(COLUMNS)),
        (4320, "2000-01-01", {"ph": -1e-45}),
        (2**62, good, {"ph": -0.0}),
    ]
    async with connected(target) as (peer,):
        await peer.open("rows")
        await peer.send(1, readings_of(*rows))
        await peer.acknowledged(1)
    refused = {"INVALID_SENSOR": 4, "TOO_OLD": 5, "IN_THE_FUTURE": 3, "NOT_FINITE": 17, "NO_VALUES": 1}
    assert sum(len(one.indexes) for one in peer.rejections) == sum(refused.values())
    assert await account_of(target, "rows") == Account(10, refused, 10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_batches_of_nothing_but_nan_or_infinity_are_refused_reading_by_reading(value: float, target: str) -> None:
    gateway_id = f"all-{value}"
    n = 5000
    bad = Readings(np.full(n, 4400), np.full(n, START_US), np.full((len(PARAMETERS), n), value, np.float32))
    columns = ReadingColumns(sensor_id=bad.sensor_id.tolist(), measured_at_us=bad.measured_at_us.tolist())
    for column in COLUMNS:
        getattr(columns, column).extend([value] * n)
    async with connected(target) as (peer,):
        await peer.open(gateway_id)
        for sequence in (1, 2, 3):
            await peer.send(sequence, columns)
        await peer.acknowledged(3)
    reason = "NO_VALUES" if math.isnan(value) else "NOT_FINITE"
    assert await account_of(target, gateway_id) == Account(0, {reason: 3 * n}, 0)


async def test_an_empty_batch_is_acknowledged_and_leaves_no_trace(target: str) -> None:
    async with connected(target) as (peer,):
        await peer.open("empty")
        for sequence in range(1, 51):
            await peer.send(sequence, ReadingColumns())
        await peer.acknowledged(50)
    assert await account_of(target, "empty") == Account()


async def test_the_same_batch_a_thousand_times_is_stored_once(target: str) -> None:
    readings = some_readings(7, sensors=[4500])
    async with connected(target) as (peer,):
        window = (await peer.open("again")).window_batches
        for sequence in range(1, 1001):
            await peer.acknowledged(sequence - window)
            await peer.send(sequence, readings)
        await peer.acknowledged(1000)
    assert await account_of(target, "again") == Account(accepted=7000, stored=7, duplicate=6993)


async def test_other_values_for_a_stored_key_are_kept_as_conflicting_and_the_first_stays(target: str) -> None:
    first, second = a_reading(4600, ph=7.0), a_reading(4600, ph=8.0)
    async with connected(target) as (peer,):
        await peer.open("conflict")
        await peer.send(1, first)
        await peer.send(2, concatenate([second, second, first]))
        await peer.acknowledged(2)
    account = await account_of(target, "conflict")
    assert (account.accepted, account.stored, account.duplicate + account.conflicting) == (4, 1, 3)
    assert account.conflicting >= 1


async def test_of_two_streams_of_one_gateway_the_newer_one_goes_on(target: str) -> None:
    async with connected(target, 20) as peers:
        for number, peer in enumerate(peers):
            await peer.open("two")
            await peer.send(1, a_reading(4700, at=START_US + number))
            await peer.acknowledged(1)
        errors = [await peer.failure() for peer in peers[:-1]]
        await peers[-1].send(2, a_reading(4700, at=START_US + 100))
        await peers[-1].acknowledged(2)
    assert {(type(error), error.reason) for error in errors} == {(Conflict, "NEWER_STREAM")}
    assert await account_of(target, "two") == Account(accepted=21, stored=21)


@pytest.mark.parametrize(("gateway_id", "region"), [("", "north"), ("ok", "../../"), ("ok", ""), ("ö", "north")])
async def test_a_submitted_batch_of_nobody_or_from_nowhere_is_refused(gateway_id: str, region: str, target: str) -> None:
    request = ingest_pb2.SubmitBatchRequest(
        open=ingest_pb2.StreamOpen(gateway_id=gateway_id, region=region), readings=write_columns(a_reading())
    )
    async with grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ingest_pb2_grpc.IngestServiceStub(channel).SubmitBatch(request, timeout=20)
    error = from_rpc(refused.value)
    assert error.reason == ("INVALID_REGION" if gateway_id == "ok" else "INVALID_GATEWAY")


async def test_gateways_that_never_read_acknowledgements_are_let_go_and_cost_little_memory(target: str, healthy: Healthy) -> None:
    before = healthy.rss_bytes()
    gateway_ids = [f"deaf-{number}" for number in range(8)]
    with deaf_gateways(target, *gateway_ids) as gateways:
        await healthy.streams(9)
        await healthy.streams(1)
        assert healthy.rss_bytes() < before + 192 * 2**20
        gateways.pop().call.cancel()  # one goes without having read anything, which must leave no trace of a fault
        errors = [await asyncio.to_thread(failure, gateway.call) for gateway in gateways]
    assert {(type(error), error.reason) for error in errors} == {(Unavailable, "ACKS_NOT_READ")}
    account = await account_of(target, *gateway_ids)
    assert set(account.refused) == {"INVALID_SENSOR", "NO_VALUES"}
