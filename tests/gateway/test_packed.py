"""Packed columns mean exactly what the protobuf encoder would have written."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from waterquality.v1.ingest_pb2 import StreamBatchesRequest
from waterquality.v1.reading_pb2 import ReadingColumns

from mesh.codec.columns import read_columns, write_columns
from mesh.codec.gateway_frames import MAX_FRAME_OVERHEAD_BYTES, batch_frame, reason_names, unpack_columns
from mesh.codec.packed import MAX_READING_BYTES, pack_columns
from tests.builders import some_readings
from water.parameter import PARAMETERS
from water.readings import Readings, empty


@st.composite
def any_readings(draw: st.DrawFn) -> Readings:
    n = draw(st.integers(0, 40))
    whole = hnp.arrays(np.int64, n, elements=st.integers(-(2**63), 2**63 - 1))
    some = hnp.arrays(np.float32, (len(PARAMETERS), n), elements=st.floats(width=32))
    values = draw(some)
    values[draw(hnp.arrays(np.bool_, len(PARAMETERS)))] = np.nan
    return Readings(draw(whole), draw(whole), values)


@given(any_readings())
def test_packed_columns_parse_to_the_message_that_protobuf_would_have_written(readings: Readings) -> None:
    packed = ReadingColumns.FromString(pack_columns(readings))
    written = write_columns(readings)
    for field in ReadingColumns.DESCRIPTOR.fields:
        ours, theirs = np.array(getattr(packed, field.name)), np.array(getattr(written, field.name))
        np.testing.assert_array_equal(ours, theirs)
    assert len(pack_columns(readings)) <= len(readings) * MAX_READING_BYTES + MAX_FRAME_OVERHEAD_BYTES


@given(any_readings(), st.integers(1, 2**63 - 1))
def test_a_batch_frame_parses_to_its_sequence_and_readings(readings: Readings, sequence: int) -> None:
    columns = pack_columns(readings)
    frame = StreamBatchesRequest.FromString(batch_frame(sequence, columns))
    assert frame.WhichOneof("frame") == "batch"
    assert frame.batch.sequence == sequence
    assert frame.batch.readings.SerializeToString() == ReadingColumns.FromString(columns).SerializeToString()
    assert len(batch_frame(sequence, columns)) <= len(readings) * MAX_READING_BYTES + MAX_FRAME_OVERHEAD_BYTES


@given(any_readings())
def test_unpacked_columns_are_the_readings_again(readings: Readings) -> None:
    again = unpack_columns(pack_columns(readings))
    np.testing.assert_array_equal(again.sensor_id, readings.sensor_id)
    np.testing.assert_array_equal(again.measured_at_us, readings.measured_at_us)
    np.testing.assert_array_equal(again.values, readings.values)


def test_readings_that_carry_their_message_are_packed_from_it() -> None:
    message = write_columns(some_readings(10))
    assert ReadingColumns.FromString(pack_columns(read_columns(message))) == message


def test_no_readings_are_no_bytes() -> None:
    assert pack_columns(empty()) == b""


def test_a_view_of_columns_packs_only_its_part() -> None:
    whole = some_readings(100)
    view = Readings(whole.sensor_id[20:30], whole.measured_at_us[20:30], whole.values[:, 20:30])
    np.testing.assert_array_equal(unpack_columns(pack_columns(view)).values, whole.values[:, 20:30])


def test_a_reason_that_is_not_known_yet_is_named_unspecified() -> None:
    assert reason_names({3: 2, 5: 1, 999: 4}) == {"IN_THE_FUTURE": 2, "NO_VALUES": 1, "UNSPECIFIED": 4}
