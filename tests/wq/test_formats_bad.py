"""Files as people really have them: each oddity is read as it is meant, or refused with words that help."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from mesh.errors import InvalidArgument, NotFound
from tests.wq.files import EPA_HEADER, PH_ONLY, Read, ph_file, read_file, write_file
from wq.formats import table

GOOD = "pond,2024-06-10,13:15:00,UTC,7.48,-0.04,23.7,8.91,0.414"


def _with_rows(tmp_path: Path, *rows: str, end: str = "\n") -> Read:
    return read_file(write_file(tmp_path, [EPA_HEADER, GOOD, *rows, GOOD.replace("13:15", "14:15")], end=end))


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    path = write_file(tmp_path, ["\ufeff" + EPA_HEADER, GOOD], end="\r\n")
    found = read_file(path)
    assert found.values("ph") == [np.float32(7.48)]
    assert found.values("conductivity_us_cm") == [414.0]
    assert found.unknown_columns == ()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_semicolons_and_tabs_are_seen_in_the_header(tmp_path: Path, separator: str) -> None:
    found = read_file(write_file(tmp_path, [EPA_HEADER.replace(",", separator), GOOD.replace(",", separator)]))
    assert found.values("dissolved_oxygen_mg_l") == [np.float32(8.91)]


def test_a_decimal_comma_is_not_guessed(tmp_path: Path) -> None:
    found = read_file(write_file(tmp_path, [EPA_HEADER.replace(",", ";"), GOOD.replace(",", ";").replace("7.48", "7,48")]))
    assert len(found.readings) == 0
    assert found.unreadable[0] == (2, "ph: '7,48' is no number")


def test_quoted_fields_may_hold_separators_and_line_ends(tmp_path: Path) -> None:
    lines = [
        EPA_HEADER,
        GOOD.replace("pond", '"the pond, ""north""\n side"'),
        GOOD.replace("7.48", '"7.5"'),
        GOOD.replace("7.48", "x"),
    ]
    found = read_file(write_file(tmp_path, lines))
    assert found.values("ph") == [np.float32(7.48), np.float32(7.5)]
    assert found.lines == [5]


def test_blank_lines_are_no_rows_and_other_lengths_are_unreadable(tmp_path: Path) -> None:
    found = _with_rows(tmp_path, "", "pond,2024-06-10", GOOD + ",extra", "", "   ")
    assert (found.rows, found.unreadable_count, found.lines) == (5, 3, [4, 5, 7])
    assert found.unreadable[0].problem == "2 fields, the header has 9"
    assert len(found.readings) == 2


@pytest.mark.parametrize("text", ["abc", "7.4.8", "1_000", "inf", "-Infinity", "0x1F", "7,48", "1e40", "--7", "7 8", "٧", "<0.1"])
def test_a_value_that_is_no_number_makes_its_row_unreadable(tmp_path: Path, text: str) -> None:
    found = _with_rows(tmp_path, GOOD.replace("7.48", f'"{text}"'))
    assert found.lines == [3]
    assert "ph" in found.unreadable[0].problem
    assert text in found.unreadable[0].problem
    assert len(found.readings) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("+7.5", 7.5), (".5", 0.5), ("7.", 7), ("1.5e1", 15), (" 7.5 ", 7.5), ("-0", 0), ("3.4e38", 3.4e38)],
)
def test_every_plain_number_is_read(tmp_path: Path, text: str, value: float) -> None:
    assert _with_rows(tmp_path, GOOD.replace("7.48", text)).values("ph")[1] == np.float32(value)


@pytest.mark.parametrize("text", ["", "-9999", "-9999.0", "-9999.00", " ", "NA", "NaN", "NULL"])
def test_what_means_missing_is_absent(tmp_path: Path, text: str) -> None:
    found = _with_rows(tmp_path, GOOD.replace("7.48", text))
    assert np.isnan(found.values("ph")[1])
    assert found.unreadable_count == 0


def test_a_row_without_any_value_is_kept_for_the_server_to_refuse(tmp_path: Path) -> None:
    found = _with_rows(tmp_path, "pond,2024-06-10,13:30:00,UTC,,-9999,,,")
    assert len(found.readings) == 3
    assert np.isnan(found.readings.values[:, 1]).all()


def test_the_first_ten_unreadable_rows_are_named_and_all_are_counted(tmp_path: Path) -> None:
    found = read_file(write_file(tmp_path, [EPA_HEADER, *([GOOD, GOOD.replace("7.48", "?"), "short"] * 5000)]))
    assert found.unreadable_count == 10_000
    assert found.lines == [3, 4, 6, 7, 9, 10, 12, 13, 15, 16]
    assert len(found.readings) == 5000


def test_equal_times_are_all_sent(tmp_path: Path) -> None:
    found = read_file(ph_file(tmp_path, *["2024-06-10 12:00:00 7.1", "2024-06-10 12:00:00 7.2", "2024-06-10 11:00:00 7.1"]))
    assert len(found.readings) == 3


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    found = read_file(write_file(tmp_path, [EPA_HEADER + ",mystery", GOOD + ",1"]))
    assert found.unknown_columns == ("mystery",)


def test_a_header_without_rows_is_a_file_without_readings(tmp_path: Path) -> None:
    for lines in ([EPA_HEADER], [EPA_HEADER, "", ""]):
        found = read_file(write_file(tmp_path, lines))
        assert (found.rows, len(found.readings), found.problem) == (0, 0, "")


def test_a_truncated_gzip_gives_the_rows_before_and_says_so(tmp_path: Path) -> None:
    rows = [
        GOOD.replace("13:15:00", f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}") for second in range(30_000)
    ]
    path = write_file(tmp_path, [EPA_HEADER, *rows], "station.csv.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    found = read_file(path)
    assert 5_000 < len(found.readings) < 25_000
    assert found.unreadable_count == 0
    assert "the gzip file is cut off after line" in found.problem
    assert f"after line {len(found.readings) + 1}:" in found.problem
    assert np.diff(found.readings.measured_at_us).tolist() == [1_000_000] * (len(found.readings) - 1)


def test_a_damaged_gzip_gives_no_row_twice_and_says_so(tmp_path: Path) -> None:
    path = write_file(tmp_path, [EPA_HEADER, *[GOOD] * 1000], "station.csv.gz")
    damaged = bytearray(path.read_bytes())
    damaged[-8:-4] = b"\0\0\0\0"  # the checksum
    path.write_bytes(damaged)
    found = read_file(path)
    assert len(found.readings) == 1000
    assert "damaged" in found.problem


def test_a_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "station.csv"
    path.write_bytes(gzip.compress(f"{EPA_HEADER}\n{GOOD}\n".encode()))
    assert len(read_file(path).readings) == 1
    plain = write_file(tmp_path, [EPA_HEADER, GOOD]).rename(tmp_path / "plain.csv.gz")
    assert len(read_file(plain).readings) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(b"hello,world\n" * 1000)[:15], "cut off before its header"),
        (b"\x1f\x8bnot really", "damaged before its header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a text file"),
        ("waterbody,date".encode("utf-16"), "UTF-16"),
        (b"x" * 100_000, "no end of line"),
        (b'{"ph": 7}\n', "unknown format"),
        (b"time,value\n1,2\n", "'time', 'value'"),
    ],
    ids=["empty", "empty gzip", "cut gzip", "no gzip", "image", "utf-16", "one long line", "json", "other csv"],
)
def test_what_is_no_table_is_refused_with_the_files_name_and_a_reason(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "station.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument) as caught:
        read_file(path)
    assert words in caught.value.message
    assert "station.csv" in caught.value.message


def test_an_unknown_header_says_how_to_write_a_map(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"--columns MAP\.toml"):
        read_file(write_file(tmp_path, ["a,b", "1,2"]))


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.csv: no such file"):
        read_file(tmp_path / "gone.csv")
    with pytest.raises(InvalidArgument, match="is a directory"):
        read_file(tmp_path)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="'ph' more than once"):
        read_file(write_file(tmp_path, [EPA_HEADER + ",ph", GOOD + ",7"]))


def test_a_quote_that_never_closes_costs_the_rows_it_swallows_and_no_more_memory(tmp_path: Path) -> None:
    rows = [f"2024-06-10 12:00:00,{7 + index % 2}" for index in range(30_000)]
    found = read_file(write_file(tmp_path, ["time,pH", *rows[:10], '2024-06-10 12:00:00,"7', *rows[10:]]), PH_ONLY)
    assert found.unreadable[0].line == 12
    assert "field larger than field limit" in found.unreadable[0].problem
    assert found.rows == 30_001
    assert len(found.readings) + found.unreadable_count == 30_001
    assert len(found.readings) > 20_000


def test_a_line_without_end_never_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_LONGEST_LINE", 1000)
    path = tmp_path / "station.csv"
    path.write_text("time,pH\n" + "1" * 500_000 + "\n2024-06-10 12:00:00,7\n")
    found = read_file(path, PH_ONLY)
    assert found.values("ph") == [7.0]
    assert found.unreadable_count > 0


def test_bytes_that_are_no_utf8_spoil_only_what_they_stand_in(tmp_path: Path) -> None:
    path = tmp_path / "station.csv"
    path.write_bytes(f"{EPA_HEADER}\n{GOOD}\n".replace("pond", "M\xfcggelsee").encode("latin-1"))
    assert len(read_file(path).readings) == 1
