"""An object holds exactly the readings that were packed, in the public columns, for pyarrow and for DuckDB alike."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_svc.pack import pack, unpack
from archive_svc.unpacked import Places, in_partition
from mesh.errors import InvalidArgument
from mesh.ports import Partition
from tests.builders import readings_of, some_readings
from water.parameter import PARAMETERS
from water.readings import Readings

YEAR_1_US, YEAR_9999_US = -62_135_596_800_000_000, 253_402_300_799_999_999


def flagged(readings: Readings, seed: int = 1) -> Readings:
    """Flags that use all 64 bits."""
    random = np.random.default_rng(seed)
    return readings.with_flags(random.integers(0, 2**64, len(readings), dtype=np.uint64))


def places(count: int, batch: int = 100, topic: str = "screened", partition: int = 3) -> Places:
    return in_partition(Partition(topic, partition), np.arange(count) // batch + 7, (np.arange(count) % batch).astype(np.int32))


def in_order(readings: Readings, where: Places) -> tuple[Readings, Places]:
    """As an object has them."""
    order = np.lexsort((where.index, where.offset, readings.measured_at_us, readings.sensor_id))
    return readings.take(order), where.take(order)


def same(left: Readings, right: Readings) -> bool:
    assert left.flags is not None
    assert right.flags is not None
    return (
        np.array_equal(left.sensor_id, right.sensor_id)
        and np.array_equal(left.measured_at_us, right.measured_at_us)
        and np.array_equal(
            left.values.view(np.uint32)[~np.isnan(left.values)], right.values.view(np.uint32)[~np.isnan(right.values)]
        )
        and np.array_equal(np.isnan(left.values), np.isnan(right.values))
        and np.array_equal(left.flags, right.flags)
    )


@st.composite
def any_readings(draw: st.DrawFn) -> Readings:
    count = draw(st.integers(1, 40))
    bigint = st.integers(-(2**63), 2**63 - 1)
    few = st.integers(1, 3)
    value = st.floats(width=32, allow_infinity=True)
    return Readings(
        np.array(draw(st.lists(bigint | few, min_size=count, max_size=count)), np.int64),
        np.array(draw(st.lists(st.integers(YEAR_1_US, YEAR_9999_US) | few, min_size=count, max_size=count)), np.int64),
        np.array(draw(st.lists(value, min_size=count * len(PARAMETERS), max_size=count * len(PARAMETERS))), np.float32).reshape(
            len(PARAMETERS), count
        ),
        np.array(draw(st.lists(st.integers(0, 2**64 - 1), min_size=count, max_size=count)), np.uint64),
    )


@settings(max_examples=40, deadline=None)
@given(any_readings())
def test_what_is_unpacked_is_what_was_packed(readings: Readings) -> None:
    where = places(len(readings), batch=5)
    content = pack(readings, "north", where, "log-1")
    found = unpack(content)
    expected, expected_places = in_order(readings, where)
    assert same(found.readings, expected)
    assert (found.region, found.log_id) == ("north", "log-1")
    assert found.places.partitions == (Partition("screened", 3),)
    assert np.array_equal(found.places.offset, expected_places.offset)
    assert np.array_equal(found.places.index, expected_places.index)


def test_the_same_readings_give_the_same_bytes_in_whatever_order_they_come() -> None:
    readings, where = flagged(some_readings(1000, absent=0.3)), places(1000)
    order = np.random.default_rng(5).permutation(1000)
    shuffled = where.take(order)
    content = pack(readings, "north", where, "log-1")
    assert pack(readings, "north", where, "log-1") == content
    assert pack(readings.take(order), "north", shuffled, "log-1") == content


def test_duckdb_and_pyarrow_read_the_public_columns_with_equal_values(tmp_path: Path) -> None:
    readings, where = flagged(some_readings(5000, sensors=100, absent=0.3)), places(5000)
    file = tmp_path / "object.parquet"
    file.write_bytes(pack(readings, "north", where, "log-1"))
    expected, expected_places = in_order(readings, where)
    table = pq.read_table(file)
    with duckdb.connect() as database:
        found = database.execute("SELECT * FROM read_parquet(?)", [str(file)]).fetchnumpy()
        zoned = database.execute("SELECT min(timestamp) = TIMESTAMPTZ '2026-01-01 00:00:00Z' FROM read_parquet(?)", [str(file)])
        assert zoned.fetchone() == (True,)
    assert list(found) == table.column_names
    assert np.array_equal(found["sensor_id"], expected.sensor_id)
    assert np.array_equal(table["sensor_id"].to_numpy(), expected.sensor_id)
    for parameter, column in zip(PARAMETERS, expected.values, strict=True):
        assert np.array_equal(np.ma.filled(found[parameter.sql_column], np.nan), column, equal_nan=True), parameter.label
        assert np.array_equal(table[parameter.sql_column].to_numpy(), column, equal_nan=True), parameter.label
    assert expected.flags is not None
    assert np.array_equal(np.asarray(found["flags"], np.int64).view(np.uint64), expected.flags)
    assert np.array_equal(found["offset"], expected_places.offset)
    assert np.array_equal(found["index"], expected_places.index)
    assert set(found["region"]) == {"north"}
    assert set(found["topic"]) == {"screened"}
    assert set(found["partition"]) == {3}


def test_values_that_never_repeat_are_read_alike_too(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    readings = flagged(some_readings(5000, sensors=50))
    values = random.normal(size=readings.values.shape).astype(np.float32)
    values[random.random(values.shape) < 0.2] = np.nan
    readings = Readings(readings.sensor_id, readings.measured_at_us, values, readings.flags)
    file = tmp_path / "object.parquet"
    file.write_bytes(pack(readings, "north", places(5000), "log-1"))
    expected, _ = in_order(readings, places(5000))
    assert "BYTE_STREAM_SPLIT" in pq.ParquetFile(file).metadata.row_group(0).column(2).encodings
    assert same(unpack(file.read_bytes()).readings, expected)
    with duckdb.connect() as database:
        found = database.execute("SELECT * FROM read_parquet(?)", [str(file)]).fetchnumpy()
    for parameter, column in zip(PARAMETERS, expected.values, strict=True):
        assert np.array_equal(np.ma.filled(found[parameter.sql_column], np.nan), column, equal_nan=True), parameter.label


@pytest.mark.parametrize("sensors", [10, 1000, 10_000])
def test_ten_thousand_readings_take_at_most_twelve_bytes_each(sensors: int) -> None:
    readings = some_readings(10_000, sensors=sensors)
    readings = readings.with_flags(np.full(len(readings), 0x1111_1111, np.uint64))
    content = pack(readings, "north", places(len(readings), batch=1000), "0123456789abcdef")
    assert len(content) / len(readings) <= 12


def test_what_is_no_object_is_refused_by_name() -> None:
    content = pack(flagged(some_readings(100)), "north", places(100), "log-1")
    for broken in (b"", b"PAR1", content[:50], content[:-1], content[:-9] + content[-8:], b"\0" * 1000):
        with pytest.raises(InvalidArgument) as caught:
            unpack(broken)
        assert caught.value.reason == "UNREADABLE_OBJECT"


def test_parquet_of_somebody_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.parquet"
    for statement in ("SELECT 1 AS a", "SELECT 1 AS sensor_id WHERE false", "SELECT range AS sensor_id FROM range(5)"):
        with duckdb.connect() as database:
            database.execute(f"COPY ({statement}) TO '{file}' (FORMAT parquet)")
        with pytest.raises(InvalidArgument) as caught:
            unpack(file.read_bytes())
        assert caught.value.reason == "UNREADABLE_OBJECT"


def test_a_column_of_places_with_gaps_or_two_regions_is_refused(tmp_path: Path) -> None:
    whole, file = tmp_path / "whole.parquet", tmp_path / "changed.parquet"
    whole.write_bytes(pack(flagged(readings_of((1, 0, {"ph": 7.0}), (2, 0, {"ph": 7.0}))), "north", places(2), "log-1"))
    for change in ("NULL AS sensor_id", "'r' || sensor_id AS region", "nullif(flags, flags) AS flags"):
        with duckdb.connect() as database:
            database.execute(f"COPY (SELECT * REPLACE ({change}) FROM '{whole}') TO '{file}' (FORMAT parquet)")
        with pytest.raises(InvalidArgument) as caught:
            unpack(file.read_bytes())
        assert caught.value.reason == "UNREADABLE_OBJECT"


def test_an_object_of_more_readings_than_one_may_have_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pack(flagged(some_readings(100)), "north", places(100), "log-1")
    monkeypatch.setattr("archive_svc.pack.MOST_READINGS", 99)
    with pytest.raises(InvalidArgument, match="100 readings"):
        unpack(content)


def test_a_small_object_that_says_a_long_text_very_often_takes_no_memory() -> None:
    count, text = 200_000, "x" * 200_000  # 40 GB, were each reading to have its own
    readings = flagged(readings_of((1, 0, {"ph": 7.0})))
    content = pack(readings.take(np.zeros(count, np.intp)), text, places(count), "log-1")
    assert len(content) < 200_000
    assert unpack(content).region == text


def test_readings_without_flags_are_not_packed() -> None:
    with pytest.raises(ValueError, match="screen them first"):
        pack(some_readings(3), "north", places(3), "log-1")
