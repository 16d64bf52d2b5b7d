"""Records of the Log keep everything on their way through bytes, and other bytes are refused, never guessed."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waterquality.v1 import log_pb2
from waterquality.v1.reading_pb2 import FlaggedColumns, ReadingColumns

from mesh.codec.catalog import write_catalog
from mesh.codec.catalog_context import LONGEST_GAP_S, read_described
from mesh.codec.columns import read_columns, write_columns, write_flagged
from mesh.codec.log_records import (
    Accepted,
    ContextChange,
    ContextKind,
    Dead,
    Rejected,
    Screened,
    read_accepted,
    read_dead,
    read_refused,
    read_screened,
    write_accepted,
    write_context,
    write_dead,
    write_refused,
    write_screened,
)
from mesh.errors import InvalidArgument
from tests.builders import some_readings
from water.described import DEFAULT_GAP_US
from water.readings import Readings
from water.sites import Sensor

AT_US = 1_767_225_600_000_000


def same(left: Readings, right: Readings) -> bool:
    """Whether ids, times and values are the same, bit by bit but for NaN."""
    return (
        left.sensor_id.tolist() == right.sensor_id.tolist()
        and left.measured_at_us.tolist() == right.measured_at_us.tolist()
        and np.array_equal(left.values, right.values, equal_nan=True)
    )


@pytest.mark.parametrize("n", [1, 15, 16, 1000])
@pytest.mark.parametrize("through_wire", [False, True])
def test_accepted_readings_come_back_and_are_the_message_that_protobuf_would_write(n: int, through_wire: bool) -> None:
    readings = some_readings(n, 3, absent=0.5)
    given_readings = read_columns(write_columns(readings)) if through_wire else readings
    value = write_accepted("g-1", 7, "north", AT_US, given_readings)
    batch = log_pb2.AcceptedBatch(gateway_id="g-1", sequence=7, region="north", received_at_us=AT_US)
    batch.readings.CopyFrom(write_columns(readings))
    assert log_pb2.AcceptedRecord.FromString(value) == log_pb2.AcceptedRecord(batch=batch)
    read = read_accepted(value)
    assert isinstance(read, Accepted)
    assert (read.gateway_id, read.sequence, read.region, read.received_at_us) == ("g-1", 7, "north", AT_US)
    assert same(read.readings, readings)


def test_screened_readings_come_back_with_flags_and_offsets() -> None:
    readings = some_readings(100, 3, absent=0.5)
    flagged = readings.with_flags(np.arange(100, dtype=np.uint64) << np.uint64(57))
    value = write_screened(Screened("g-1", 7, "north", AT_US, flagged, 12, 11, (3, 0, 1)))
    message = log_pb2.ScreenedBatch.FromString(value)
    assert message.readings == write_flagged(flagged)
    read = read_screened(value)
    assert same(read.readings, readings)
    assert read.readings.flags is not None
    assert flagged.flags is not None
    assert read.readings.flags.tolist() == flagged.flags.tolist()
    assert (read.gateway_id, read.sequence, read.region, read.received_at_us) == ("g-1", 7, "north", AT_US)
    assert (read.source_offset, read.previous_source_offset, read.context_version) == (12, 11, (3, 0, 1))


def test_an_empty_screened_record_reads_as_no_readings_with_flags() -> None:
    nothing = some_readings(0).with_flags(np.empty(0, np.uint64))
    read = read_screened(write_screened(Screened("", 0, "", 0, nothing, 0, -1)))
    assert len(read.readings) == 0
    assert read.readings.flags is not None
    assert (read.source_offset, read.previous_source_offset) == (0, -1)


def test_readings_that_were_not_screened_cannot_be_written_as_screened() -> None:
    with pytest.raises(ValueError, match="screen them first"):
        write_screened(Screened("g-1", 1, "north", AT_US, some_readings(1), 0, -1))


def test_a_context_change_comes_back_and_kinds_are_those_of_the_contract() -> None:
    change = ContextChange(ContextKind.CATALOG, 4, "contexts/4", "ab")
    assert read_accepted(write_context(change)) == change
    names = {f"CONTEXT_KIND_{kind.name}": kind.value for kind in ContextKind}
    assert names | {"CONTEXT_KIND_UNSPECIFIED": 0} == dict(log_pb2.ContextKind.items())


def test_refused_and_dead_records_come_back() -> None:
    readings = some_readings(3)
    refusals = (Rejected(3, 2, 0, (0, 2)), Rejected(8, 1, 4, (5,)))
    refused = read_refused(write_refused("g-1", 7, "north", AT_US, refusals, readings))
    assert (refused.refusals, refused.sequence) == (refusals, 7)
    assert refused.readings is not None
    assert same(refused.readings, readings)
    dead = Dead("screen", "accepted", 3, 9, "g-1", AT_US, 10, "why", b"\xff")
    assert read_dead(write_dead(dead)) == dead


def test_refused_columns_of_unequal_length_stay_as_they_came() -> None:
    ragged = ReadingColumns(sensor_id=[1, 2], measured_at_us=[1])
    value = write_refused("g-1", 1, "north", AT_US, (Rejected(1, 2, 0, ()),), ragged)
    assert read_refused(value).readings is None
    assert log_pb2.RefusedBatch.FromString(value).readings == ragged


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xff",
        log_pb2.AcceptedRecord(batch=log_pb2.AcceptedBatch(readings=ReadingColumns(sensor_id=[1]))).SerializeToString(),
    ],
    ids=["empty", "garbage", "ragged"],
)
def test_what_is_no_accepted_record_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidArgument, match="not a readable AcceptedRecord"):
        read_accepted(value)


def test_a_screened_record_without_a_flag_for_each_reading_is_refused() -> None:
    flagged = FlaggedColumns(readings=write_columns(some_readings(2)), flags=[1])
    with pytest.raises(InvalidArgument, match="2 readings but 1 flags"):
        read_screened(log_pb2.ScreenedBatch(readings=flagged).SerializeToString())


@given(value=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(value: bytes) -> None:
    for read in (read_accepted, read_screened, read_refused, read_dead):
        with suppress(InvalidArgument):
            read(value)


def test_a_catalog_gives_gap_limits_of_five_expected_periods() -> None:
    sensors = [Sensor(9, expected_period_s=900), Sensor(2, expected_period_s=0.5), Sensor(5), Sensor(7, expected_period_s=1e300)]
    described = read_described(write_catalog([], sensors))
    assert described.gap_us(described.find(np.array([2, 5, 7, 9, 10], np.int64))).tolist() == [
        2_500_000,
        DEFAULT_GAP_US,
        LONGEST_GAP_S * 1_000_000,
        4500 * 1_000_000,
        DEFAULT_GAP_US,
    ]
    with pytest.raises(InvalidArgument):
        read_described(b"\xff")
