"""A record of the manifest comes back as it was, and nothing of a strange one is believed unchecked."""

import json
from dataclasses import asdict, replace
from datetime import date
from typing import Any

import pytest

from archive_svc.manifest_record import (
    ManifestRow,
    manifest_path,
    object_path,
    read_manifest_row,
    safe_region,
    write_manifest_row,
)
from mesh.errors import InvalidArgument
from tests.builders import START_US

PATH = object_path("north", date(2026, 1, 1), "0123456789abcdef", "screened", 3, 42)
ROW = ManifestRow(PATH, 10, 1000, "0" * 64, START_US, START_US + 5, "0123456789abcdef", "screened", 3, 42, 50, START_US + 10)


def changed(**values: Any) -> bytes:
    return json.dumps({**asdict(ROW), **values}).encode()


def test_a_row_comes_back_as_it_was_and_always_as_the_same_bytes() -> None:
    assert read_manifest_row(write_manifest_row(ROW)) == ROW
    assert write_manifest_row(replace(ROW)) == write_manifest_row(ROW)


def test_paths_are_sorted_by_region_day_and_chunk() -> None:
    assert PATH == "water_quality_data/north/2026/01/01/01234567-screened-3-00000000000000000042.parquet"
    assert manifest_path(ROW) == "manifest/0123456789abcdef/north/2026/01/01/01234567-screened-3-00000000000000000042.json"
    assert ROW.region == "north"
    assert object_path("a", date(1, 1, 1), "x", "screened", 0, 0).startswith("water_quality_data/a/0001/01/01/x-")


@pytest.mark.parametrize(
    "path",
    [
        "/" + PATH,
        "/etc/passwd",
        PATH.replace("north", ".."),
        PATH.replace("01234567", ".."),
        "water_quality_data/north/2026/01/01/../../x.parquet",
        "water_quality_data/north/2026/01/01/..parquet",
        PATH.replace("water_quality_data", "manifest"),
        "../" + PATH,
        PATH.replace("/", "\\"),
        PATH + "\n",
        PATH.replace("north", "north\0"),
        PATH.replace("north", "n" * 21),
        PATH.replace("2026/01", "2026/13"),
        PATH.replace("2026/01/01", "2026/02/30"),
        PATH.replace("2026", "0000"),
        PATH.replace("2026", "٢٠٢٦"),
        PATH.replace(".parquet", ".json"),
        "",
    ],
)
def test_a_path_that_leads_elsewhere_is_unsafe(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_manifest_row(changed(path=path))
    assert caught.value.reason == "UNSAFE_PATH"


@pytest.mark.parametrize(
    "values",
    [
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"reading_count": -1},
        {"reading_count": 0},
        {"reading_count": True},
        {"reading_count": 1.0},
        {"reading_count": "10"},
        {"reading_count": 2**63},
        {"size_bytes": 2**40},
        {"first_us": START_US - 1},
        {"first_us": START_US + 6},
        {"last_us": START_US + 86_400_000_000},
        {"log_id": "../x"},
        {"topic": "a/b"},
        {"partition": -1},
        {"first_offset": -1},
        {"first_offset": 51},
        {"last_offset": 2**63},
        {"stored_us": -1},
        {"path": None},
    ],
)
def test_what_no_row_of_ours_says_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_manifest_row(changed(**values))
    assert caught.value.reason == "INVALID_MANIFEST"
    assert next(iter(values)) in caught.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"{" * 100_000, b"\xff\xfe", b"[" * 5000, b" " * 10_000])
def test_what_is_no_record_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_manifest_row(content)
    assert caught.value.reason == "INVALID_MANIFEST"


def test_a_region_is_safe_when_it_is_one_plain_segment() -> None:
    assert safe_region("north-1_a")
    assert not any(map(safe_region, ("", ".", "..", "a/b", "North", "a b", "n" * 21, "a\n", "a\0")))
