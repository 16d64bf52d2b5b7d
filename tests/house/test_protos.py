"""The contracts: generated code is fresh, a break is noticed, and the rules that buf has no check for."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from waterquality.v1.reading_pb2 import Parameter, QualityFlag, ReadingColumns

from tests.house.tree import ROOT
from water import flags
from water.parameter import PARAMETERS

PROTOS = sorted((ROOT / "protos/waterquality/v1").glob("*.proto"))
BASELINE = ROOT / "protos/baseline.binpb"
UNITS = ("_ntu", "_c", "_mg_l", "_us_cm", "_mv", "_m3_h", "_deg", "_s", "_per_s", "_per_hour", "_share", "_ratio")
UNITLESS = {"ph", "percentile", "percentiles", "coverage", "probability", "completeness", "score"}
IN_THE_PARAMETERS_UNIT = {
    "value", "values", "expected", "mean", "min", "max", "lower", "upper", "limit", "statistic",
    "lower_limit", "upper_limit", "deadband",
}  # fmt: skip
INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
FRACTIONS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def descriptors() -> list[FileDescriptor]:
    return [import_module(f"waterquality.v1.{path.stem}_pb2").DESCRIPTOR for path in PROTOS]


def fields() -> Iterator[FieldDescriptor]:
    messages: list[Descriptor] = [message for file in descriptors() for message in file.message_types_by_name.values()]
    return (field for message in messages for field in message.fields)


def buf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("buf")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the contracts, to be spoilt."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos/waterquality", tmp_path / "protos/waterquality")
    return tmp_path


def test_generated_code_is_what_the_protos_give_now(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "protos/generate.py", tmp_path], check=True, timeout=100)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*") if path.suffix in (".py", ".pyi")}
    kept = {
        path.relative_to(ROOT / "gen"): path.read_text()
        for path in (ROOT / "gen").rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }
    assert set(made) == set(kept)
    stale = [str(name) for name, text in made.items() if text != kept[name]]
    assert not stale, f"run `make gen`: {stale}"


def test_the_protos_break_nothing_that_callers_rely_on(copy: Path) -> None:
    found = buf(copy, "breaking", "--against", str(BASELINE))
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("reading.proto", "repeated float ph = 3;", "repeated float acidity = 3;"),
        ("ingest.proto", "int64 durable_sequence = 1;", "int64 durable_sequence = 9;"),
        ("query.proto", "rpc GetLatest(", "rpc FetchLatest("),
    ],
)
def test_a_breaking_change_is_caught(copy: Path, file: str, old: str, new: str) -> None:
    path = copy / "protos/waterquality/v1" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    found = buf(copy, "breaking", "--against", str(BASELINE))
    assert found.returncode != 0
    assert file in found.stdout


def test_a_service_has_its_file_to_itself() -> None:
    for file in descriptors():
        services = list(file.services_by_name)
        assert len(services) <= 1
        for service in services:
            assert file.name == f"waterquality/v1/{service.removesuffix('Service').lower()}.proto"


def test_times_and_spans_say_so_in_their_names() -> None:
    for field in fields():
        kind = field.message_type.full_name if field.message_type else ""
        if kind == "google.protobuf.Timestamp":
            assert field.name == "time" or field.name.endswith("_time"), field.full_name
        if kind == "google.protobuf.Duration":
            assert field.name.endswith("_duration"), field.full_name


def test_counts_are_integers_and_fractions_have_a_unit() -> None:
    for field in fields():
        if field.name.endswith(("_count", "_bytes", "_us")) and field.type != FieldDescriptor.TYPE_MESSAGE:
            assert field.cpp_type in INTEGERS, field.full_name
        if field.cpp_type in FRACTIONS:
            has_unit = field.name.endswith(UNITS) or field.name in UNITLESS | IN_THE_PARAMETERS_UNIT
            assert has_unit, f"{field.full_name}: name its unit"


def test_every_list_is_paged_and_says_how() -> None:
    for path in PROTOS:
        for comment, field in re.findall(r"((?:  //.*\n)+)  (?:int32|string) (page_size|page_token) = \d+;", path.read_text()):
            if field == "page_size":
                assert re.search(r"; 0: [\d,]+; lowered to [\d,]+", comment), f"{path.name}: {comment}"
            else:
                assert "From the previous answer" in comment, f"{path.name}: {comment}"
    for file in descriptors():
        for name, message in file.message_types_by_name.items():
            if "page_size" in message.fields_by_name:
                answer = file.message_types_by_name[name.removesuffix("Request") + "Response"]
                assert "page_token" in message.fields_by_name, name
                assert "next_page_token" in answer.fields_by_name, name


def test_every_enum_says_whether_it_may_grow() -> None:
    for path in PROTOS:
        for comment, name in re.findall(r"((?:^//.*\n)+)enum (\w+)", path.read_text(), re.M):
            assert re.search(r"May grow|Does not grow", comment), f"{path.name}: {name}"


def test_the_columns_of_the_wire_are_the_table_of_parameters() -> None:
    columns = {field.name: field.number for field in ReadingColumns.DESCRIPTOR.fields}
    expected = {parameter.column: parameter.number + 2 for parameter in PARAMETERS}
    assert columns == {"sensor_id": 1, "measured_at_us": 2} | expected
    assert Parameter.values() == [0, *(parameter.number for parameter in PARAMETERS)]


def test_flags_have_the_numbers_of_the_standard() -> None:
    names = ("GOOD", "NOT_EVALUATED", "SUSPECT", "FAIL", "MISSING")
    assert {name: QualityFlag.Value(f"QUALITY_FLAG_{name}") for name in names} == {name: getattr(flags, name) for name in names}
