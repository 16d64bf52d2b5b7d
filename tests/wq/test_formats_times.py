"""Times: layouts, offsets, zones, and the hours that a clock skips or has twice."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from tests.wq.files import PH_ONLY, ph_file, read_file, write_file
from wq.formats import station
from wq.formats.column_map import ColumnMap, TimeColumns, ValueColumn
from wq.formats.times import read_times
from wq.formats.zones import FINE, SKIPPED, TWICE, to_utc, zone_of

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - wall clocks
US = timedelta(microseconds=1)
NEW_YORK = ZoneInfo("America/New_York")
moments = st.datetimes(datetime(1, 1, 1), datetime(9998, 12, 31))  # noqa: DTZ001 - wall clocks


def _local_us(*texts: str) -> np.ndarray:
    return np.array([(datetime.fromisoformat(text) - EPOCH) // US for text in texts], np.int64)


@given(
    st.lists(moments, min_size=1, max_size=20), st.sampled_from(["%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"])
)
@settings(max_examples=80, deadline=None)
def test_iso_times_are_read_as_python_reads_them(times: list[datetime], pattern: str) -> None:
    texts = [f"{time.year:04d}" + time.strftime(pattern.removeprefix("%Y")) for time in times]
    found = read_times(texts, "iso")
    assert found.readable.all()
    assert not found.absolute.any()
    assert found.us.tolist() == [(datetime.fromisoformat(text) - EPOCH) // US for text in texts]


@given(
    st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), min_size=1, max_size=10),  # noqa: DTZ001
    st.sampled_from(["%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%Y%m%d%H%M", "%d %b %Y %I:%M %p", "%Y %j %H", "%y-%m-%d %H"]),
)
@settings(max_examples=80, deadline=None)
def test_patterns_mean_what_strptime_means(times: list[datetime], pattern: str) -> None:
    texts = [time.strftime(pattern) for time in times]
    found = read_times(texts, pattern)
    assert found.us.tolist() == [(datetime.strptime(text, pattern) - EPOCH) // US for text in texts]  # noqa: DTZ007


@pytest.mark.parametrize(
    "text",
    ["", "now", "2024", "2024-06", "2024-06-10", "2024-02-30 10:00", "2024-13-01 10:00", "2024-06-10 24:00", "2024-06-10 10:60",
     "2024-06-10 10:00:60", "2024-6-1 10:00", "10.06.2024 10:00", "NaT", "0000-01-01 00:00", "9999-12-31 23:59",
     "2024-06-10 1o:00",
     "２０２４-06-10 10:00", "2024-W10-1", "2024-06-10 10:00 extra", "2024-06-10 10:00+25:00"],
)  # fmt: skip
def test_what_is_no_iso_time_is_unreadable(text: str) -> None:
    assert not read_times(["2024-06-10 10:00", text], "iso").readable[1]


def test_an_offset_in_the_text_makes_a_time_absolute() -> None:
    found = read_times(
        ["2024-06-10 10:00Z", "2024-06-10T10:00:00+02:00", "2024-06-10 10:00:00.5 -0500", "2024-06-10 10:00"], "iso"
    )
    assert found.absolute.tolist() == [True, True, True, False]
    assert [datetime.fromtimestamp(us / 1e6, UTC).isoformat()[:21] for us in found.us.tolist()] == [
        "2024-06-10T10:00:00+0", "2024-06-10T08:00:00+0", "2024-06-10T15:00:00.5", "2024-06-10T10:00:00+0",
    ]  # fmt: skip


def test_unix_times_are_exact_to_the_microsecond() -> None:
    assert read_times(["1717999200", "1717999200.123456", "-1"], "unix").us.tolist() == [
        1_717_999_200_000_000, 1_717_999_200_123_456, -1_000_000,
    ]  # fmt: skip
    assert read_times(["1717999200123"], "unix_ms").us.tolist() == [1_717_999_200_123_000]
    assert read_times(["1e9", "0x10", "1_000", "", "999999999999999"], "unix").readable.tolist() == [False] * 5


@given(
    st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1)), min_size=1, max_size=40),  # noqa: DTZ001
    st.sampled_from(["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "UTC", "-03:30"]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_local_time_that_is_there_once_is_the_moment_that_the_zone_says(times: list[datetime], name: str) -> None:
    zone = zone_of(name)
    local = np.array([(time - EPOCH) // US for time in times], np.int64)
    utc_us, problem = to_utc(local, np.arange(len(times), dtype=np.int64), zone)
    for time, us, fate in zip(times, utc_us.tolist(), problem.tolist(), strict=True):
        aware = time.replace(tzinfo=zone)
        first, second = aware.utcoffset(), aware.replace(fold=1).utcoffset()
        assert first is not None
        assert second is not None
        assert fate == (FINE if first == second else SKIPPED if first < second else TWICE)
        if fate == FINE:
            assert us == (time - first - EPOCH) // US


def test_a_skipped_time_is_unreadable(tmp_path: Path) -> None:
    found = read_file(ph_file(tmp_path, "2024-03-10 01:45:00 7.1", "2024-03-10 02:15:00 7.2", "2024-03-10 03:00:00 7.3"))
    assert found.times == ["2024-03-10 06:45:00", "2024-03-10 07:00:00"]
    assert found.unreadable[0].line == 3
    assert "never was" in found.unreadable[0].problem


def test_two_passes_through_a_doubled_hour_are_told_apart_by_the_order_of_the_rows(tmp_path: Path) -> None:
    clock = ["00:45", "01:00", "01:15", "01:30", "01:45", "01:00", "01:15", "01:30", "01:45", "02:00"]
    found = read_file(ph_file(tmp_path, *(f"2024-11-03 {time}:00 7.{index}" for index, time in enumerate(clock))))
    first = _local_us("2024-11-03 04:45")[0]
    assert found.readings.measured_at_us.tolist() == [first + 900_000_000 * index for index in range(10)]
    assert found.unreadable_count == 0


def test_the_same_time_twice_in_a_doubled_hour_is_its_two_passes(tmp_path: Path) -> None:
    found = read_file(
        ph_file(
            tmp_path, "2024-11-03 00:00:00 7.0", "2024-11-03 01:00:00 7.1", "2024-11-03 01:00:00 7.2", "2024-11-03 02:00:00 7.3"
        )
    )
    assert found.times == ["2024-11-03 04:00:00", "2024-11-03 05:00:00", "2024-11-03 06:00:00", "2024-11-03 07:00:00"]


@pytest.mark.parametrize(
    "times", [["01:00", "01:30"], ["01:00", "01:00", "01:30", "01:30"], ["01:30"], ["01:30", "01:15", "01:00"]]
)
def test_a_doubled_hour_that_the_rows_do_not_explain_is_unreadable(tmp_path: Path, times: list[str]) -> None:
    rows = [f"2024-11-03 {time}:00 7.0" for time in ["00:45", *times, "02:00"]]
    found = read_file(ph_file(tmp_path, *rows))
    assert found.times == ["2024-11-03 04:45:00", "2024-11-03 07:00:00"]
    assert found.unreadable_count == len(times)
    assert "was twice" in found.unreadable[0].problem


def test_each_sensor_goes_through_a_doubled_hour_by_itself() -> None:
    local = _local_us("2024-11-03 01:00", "2024-11-03 01:00", "2024-11-03 01:30", "2024-11-03 01:30", "2024-11-03 01:10")
    utc_us, problem = to_utc(local, np.array([1, 2, 1, 2, 2], np.int64), NEW_YORK)
    assert problem.tolist() == [TWICE, FINE, TWICE, FINE, FINE]
    assert utc_us[[1, 3, 4]].tolist() == _local_us("2024-11-03 05:00", "2024-11-03 05:30", "2024-11-03 06:10").tolist()


def test_a_doubled_hour_across_pieces_of_the_file_is_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = [*range(30, 120), *range(60, 180)]
    rows = [f"2024-11-03 {minute // 60:02d}:{minute % 60:02d}:00 7.0" for minute in minutes]
    path = ph_file(tmp_path, *rows)
    for size in (1, 7, 30, 45, 60, 1000):
        monkeypatch.setattr(station, "ROWS_AT_ONCE", size)
        found = read_file(path)
        assert found.unreadable_count == 0, size
        assert np.diff(found.readings.measured_at_us).tolist() == [60_000_000] * (len(minutes) - 1)


def test_rows_of_one_file_may_be_in_different_zones(tmp_path: Path) -> None:
    lines = ["waterbody,date,time,time_zone,ph"]
    lines += [
        f"pond,2024-06-10,12:00:00,{zone},7.1" for zone in ("America/New_York", "UTC", "Europe/Berlin", "+01:00", "Nowhere/Land")
    ]
    lines += ["pond,2024-06-10,12:00:00+09:00,America/New_York,7.1"]
    found = read_file(write_file(tmp_path, lines))
    assert [time[11:16] for time in found.times] == ["16:00", "12:00", "10:00", "11:00", "03:00"]
    assert found.unreadable[0].line == 6
    assert "'Nowhere/Land' is no time zone" in found.unreadable[0].problem


def test_a_mapped_file_has_the_zone_of_its_map_and_an_offset_wins(tmp_path: Path) -> None:
    found = read_file(write_file(tmp_path, ["time,pH", "2024-01-10 12:00,7.1", "2024-01-10 12:00Z,7.2"]), PH_ONLY)
    assert found.times == ["2024-01-10 17:00:00", "2024-01-10 12:00:00"]


@pytest.mark.parametrize("name", ["", "America", "../etc/passwd", "EST5EDT4", "+24:00", "Mars/Base", "America/New_York\0"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="no time zone"):
        zone_of(name)


def test_a_date_without_a_time_needs_a_pattern(tmp_path: Path) -> None:
    path = write_file(tmp_path, ["day,pH", "2024-01-10,7.1"])
    value = (ValueColumn("pH", "ph", ""),)
    assert read_file(path, ColumnMap("m", TimeColumns(("day",)), value)).lines == [2]
    assert read_file(path, ColumnMap("m", TimeColumns(("day",), "%Y-%m-%d"), value)).times == ["2024-01-10 00:00:00"]
