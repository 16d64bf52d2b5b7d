"""`wq archive`: what is asked, what is shown, and how it ends."""

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result
from waterquality.v1 import archive_pb2 as pb
from waterquality.v1 import query_pb2

from mesh.errors import FailedPrecondition, NotFound, Unavailable
from tests.builders import START_US
from tests.wq.answering_mesh import AnsweringMesh
from wq.archive import archive

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}
PATH = "water_quality_data/north/2026/01/01/0123abcd-screened-3-00000000000000000042.parquet"

app = typer.Typer()
app.add_typer(archive, name="archive")


def run(mesh: AnsweringMesh, *words: str) -> Result:
    return CliRunner(env=WIDE | {"WQ_TARGET": mesh.target}).invoke(app, ["archive", *words])


def answer_of(result: Result) -> dict[str, Any]:
    assert result.stdout.count("\n") == 1, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def an_object(path: str = PATH) -> pb.ArchiveObject:
    found = pb.ArchiveObject(path=path, reading_count=1500, size_bytes=9000, log_topic="screened", log_partition=3)
    found.first_time.FromMicroseconds(START_US)
    found.last_time.FromMicroseconds(START_US + 5_000_000)
    return found


def test_objects_are_listed_page_by_page_with_their_sum() -> None:
    pages = [
        pb.ListObjectsResponse(objects=[an_object()], next_page_token="more"),
        pb.ListObjectsResponse(objects=[an_object(PATH.replace("north", "south"))]),
    ]
    with AnsweringMesh(ListObjects=pages) as mesh:
        result = run(mesh, "ls", "--region", "north", "--region", "south", "--from", "2026-01-01", "--to", "2026-01-02")
    assert result.exit_code == 0
    assert PATH in result.stdout
    assert "2 objects" in result.stdout
    assert "3 000" in result.stdout
    assert mesh.asked[0].filter.regions == ["north", "south"]
    assert mesh.asked[0].filter.start_time.ToMicroseconds() == START_US
    assert mesh.asked[0].filter.end_time.ToMicroseconds() == START_US + 86_400_000_000
    assert [asked.page_size for asked in mesh.asked] == [100, 99]


def test_a_list_says_when_there_is_more_and_when_there_is_nothing() -> None:
    with AnsweringMesh(ListObjects=[pb.ListObjectsResponse(objects=[an_object()], next_page_token="more")]) as mesh:
        assert "--limit" in run(mesh, "ls", "--limit", "1").stdout
        answer = answer_of(run(mesh, "ls", "--limit", "1", "--json"))
    assert answer["next_page_token"] == "more"
    assert answer["objects"][0]["reading_count"] == 1500
    with AnsweringMesh(ListObjects=[pb.ListObjectsResponse()]) as mesh:
        assert "no objects" in run(mesh, "ls").stdout


def test_an_archive_in_order_ends_with_0() -> None:
    with AnsweringMesh(VerifyArchive=[pb.VerifyArchiveResponse(checked_count=n, total_count=2) for n in (1, 2)]) as mesh:
        result = run(mesh, "verify", "--region", "north")
    assert result.exit_code == 0
    assert "2 objects checked: all as the manifest says" in result.stdout


def test_damage_is_listed_and_ends_with_1() -> None:
    problem = "its sha256 is [red]wrong[/]"
    answers = [
        pb.VerifyArchiveResponse(checked_count=1, total_count=2, damaged=an_object(), problem=problem),
        pb.VerifyArchiveResponse(checked_count=2, total_count=2),
    ]
    with AnsweringMesh(VerifyArchive=answers) as mesh:
        result = run(mesh, "verify")
    assert result.exit_code == 1
    assert f"damaged {PATH}: {problem}" in result.stdout
    assert "2 objects checked, 1 problems" in result.stdout
    with AnsweringMesh(VerifyArchive=answers) as mesh:
        result = run(mesh, "verify", "--json")
    assert result.exit_code == 1
    answer = answer_of(result)
    assert (answer["checked_count"], answer["problems"][0]["problem"]) == (2, problem)
    assert answer["problems"][0]["damaged"]["path"] == PATH


def restoring() -> list[Any]:
    return [
        pb.RestoreReadingsResponse(total_count=10),
        pb.RestoreReadingsResponse(restored_count=8, total_count=8, positions=["a", "b"]),
    ]


def test_a_restore_waits_until_what_it_put_back_can_be_read() -> None:
    not_yet = Unavailable("not yet", reason="NOT_YET_READABLE", retry_after_s=0.1)
    with AnsweringMesh(RestoreReadings=restoring(), GetLatest=[not_yet, query_pb2.GetLatestResponse()]) as mesh:
        result = run(mesh, "restore", "--source", "old", "--region", "north")
    assert result.exit_code == 0
    assert "8 readings put back; all of them can be read" in result.stdout
    assert (mesh.asked[0].source, mesh.asked[0].filter.regions) == ("old", ["north"])
    assert [asked.freshness.at_least for asked in mesh.asked[1:]] == [["a", "b"]] * 2


def test_a_restore_that_is_not_to_wait_says_so() -> None:
    with AnsweringMesh(RestoreReadings=restoring()) as mesh:
        assert "still being recorded" in run(mesh, "restore", "--wait", "0s").stdout
    with AnsweringMesh(RestoreReadings=restoring()) as mesh:
        answer = answer_of(run(mesh, "restore", "--wait", "0s", "--json"))
    assert answer == {"restored_count": 8, "total_count": 8, "positions": ["a", "b"], "unproven_count": 0}
    with AnsweringMesh(RestoreReadings=[pb.RestoreReadingsResponse()]) as mesh:
        assert "nothing to restore" in run(mesh, "restore").stdout


@pytest.mark.parametrize(
    "error",
    [
        FailedPrecondition("the archive 'old' cannot be restored here: 5 readings were accepted", reason="NOT_EMPTY"),
        NotFound("no archive 'old' is configured here; configured are: none", reason="UNKNOWN_ARCHIVE"),
        FailedPrecondition("object 'x' is not used: it is missing", reason="OBJECT_DAMAGED"),
    ],
)
def test_what_the_server_refuses_is_said_and_ends_with_1(error: FailedPrecondition | NotFound) -> None:
    with AnsweringMesh(RestoreReadings=[pb.RestoreReadingsResponse(total_count=10), error]) as mesh:
        result = run(mesh, "restore", "--source", "old")
    assert result.exit_code == 1
    assert error.message in result.stderr
    assert "hint" not in result.stderr


def test_a_time_that_is_none_is_a_usage_error() -> None:
    with AnsweringMesh() as mesh:
        for command in ("ls", "verify", "restore"):
            result = run(mesh, command, "--from", "yesteryear")
            assert result.exit_code == 2
            assert "--from" in result.stderr
