"""What a running system holds, read back as partners do: by StreamReadings, and what its ledger says."""

from dataclasses import dataclass

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from waterquality.v1 import ledger_pb2, ledger_pb2_grpc, query_pb2, query_pb2_grpc

from mesh.codec.columns import read_flagged
from water.readings import Readings, concatenate

_OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]


@dataclass(frozen=True, slots=True)
class Sums:
    """The ledger over all gateways and hours."""

    accepted: int
    refused: int
    stored: int
    duplicate: int
    conflicting: int
    dead: int


async def read_back(target: str, sensor_ids: list[int]) -> Readings:
    """All readings of these sensors, by sensor and time, with flags."""
    request = query_pb2.StreamReadingsRequest(filter=query_pb2.ReadingFilter(sensor_ids=sensor_ids))
    parts = []
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        async for frame in query_pb2_grpc.QueryServiceStub(channel).StreamReadings(request, timeout=120):
            parts.append(read_flagged(frame.readings))
    whole = concatenate(parts)
    assert whole.flags is not None
    return whole.take(np.lexsort((whole.measured_at_us, whole.sensor_id)))


async def settled_ledger(target: str) -> Sums:
    """The sums once all stages have passed everything; the laws must hold then."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        request = ledger_pb2.GetLedgerRequest(wait_duration=Duration(seconds=120), page_size=10_000)
        answer = await stub.GetLedger(request, timeout=130)
    assert answer.caught_up, "the stages did not catch up"
    assert answer.balanced, f"the ledger does not balance: {answer.entries}"
    assert not answer.next_page_token
    entries = answer.entries
    return Sums(
        sum(entry.accepted_count for entry in entries),
        sum(refused.count for entry in entries for refused in entry.refused),
        sum(entry.stored_count for entry in entries),
        sum(entry.duplicate_count for entry in entries),
        sum(entry.conflicting_count for entry in entries),
        sum(entry.dead_at_screen_count + entry.dead_at_record_count for entry in entries),
    )


def assert_same_rows(left: Readings, right: Readings) -> None:
    """Sensors, times, values (NaN as absent, bit for bit otherwise) and flags are equal."""
    assert len(left) == len(right)
    np.testing.assert_array_equal(left.sensor_id, right.sensor_id)
    np.testing.assert_array_equal(left.measured_at_us, right.measured_at_us)
    np.testing.assert_array_equal(left.values, right.values)
    np.testing.assert_array_equal(left.flags, right.flags)


def first_of_each_key(readings: Readings) -> Readings:
    """What must be stored of these readings in this order: the first of each (sensor, time), by sensor and time; a reading
    without any value is refused."""
    readings = readings.take(np.flatnonzero(~np.isnan(readings.values).all(axis=0)))
    order = np.lexsort((np.arange(len(readings)), readings.measured_at_us, readings.sensor_id))
    ordered = readings.take(order)
    new = np.ones(len(ordered), np.bool_)
    new[1:] = (np.diff(ordered.sensor_id) != 0) | (np.diff(ordered.measured_at_us) != 0)
    return ordered.take(new)
