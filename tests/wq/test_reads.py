"""The commands that read: what they ask, what they show, what --json means."""

import json
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from typer.testing import CliRunner, Result
from waterquality.v1 import catalog_pb2, ledger_pb2, query_pb2
from waterquality.v1.ingest_pb2 import REJECTION_REASON_NO_VALUES
from waterquality.v1.reading_pb2 import PARAMETER_PH, QUALITY_FLAG_SUSPECT, Reading, Value

from mesh.codec.columns import write_flagged
from mesh.errors import WaterError
from tests.builders import START_US, readings_of
from tests.wq.answering_mesh import AnsweringMesh
from water.flags import pack
from wq.cli import app

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


def _latest(*flags: int, token: str = "") -> query_pb2.GetLatestResponse:
    rows = [(index + 1, START_US, {"ph": 7.48, "conductivity_us_cm": 414.0}) for index in range(len(flags))]
    readings = readings_of(*rows)
    marks = np.full((8, len(flags)), 9, np.uint8)
    marks[0] = flags
    marks[4] = 1
    return query_pb2.GetLatestResponse(latest=write_flagged(readings.with_flags(pack(marks))), next_page_token=token)


def _rows(count: int, token: str = "") -> query_pb2.ListReadingsResponse:
    rows = []
    for index in range(count):
        row = Reading(sensor_id=1, region="utah", values=[Value(parameter=PARAMETER_PH, value=7.48, flag=QUALITY_FLAG_SUSPECT)])
        row.measured_time.FromMicroseconds(START_US + index * 1_000_000)
        rows.append(row)
    return query_pb2.ListReadingsResponse(readings=rows, next_page_token=token)


def _run(mesh: AnsweringMesh, *words: str) -> Result:
    return CliRunner(env=WIDE | {"WQ_TARGET": mesh.target}).invoke(app, list(words))


def _json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_latest_shows_values_with_units_and_marks_what_is_not_good() -> None:
    with AnsweringMesh(GetLatest=[_latest(1, 3, 4)]) as mesh:
        result = _run(mesh, "latest", "1", "2", "3", "--parameter", "ph", "--without", "fail")
    assert list(mesh.asked[0].filter.sensor_ids) == [1, 2, 3]
    assert (list(mesh.asked[0].filter.parameters), list(mesh.asked[0].filter.without_flags)) == ([1], [4])
    for words in ("conductivity", "uS/cm", "414.0", "7.48 ?", "7.48 !", "2026-01-01T00:00:00Z"):
        assert words in result.stdout
    assert "turbidity" not in result.stdout


def test_latest_in_json_has_proto_names_short_numbers_and_null_for_nan() -> None:
    with AnsweringMesh(GetLatest=[_latest(1)]) as mesh:
        answer = _json(_run(mesh, "latest", "--json"))
    columns = answer["latest"]["readings"]
    assert (columns["sensor_id"], columns["measured_at_us"], columns["ph"]) == ([1], [START_US], [7.48])
    assert answer["latest"]["flags"] == [0x9991_9991]
    assert answer["next_page_token"] == ""


def test_latest_follows_pages_up_to_its_limit() -> None:
    with AnsweringMesh(GetLatest=[_latest(1, 1, token="a"), _latest(1, token="b")]) as mesh:
        answer = _json(_run(mesh, "latest", "--limit", "3", "--json"))
    assert [(asked.page_size, asked.page_token) for asked in mesh.asked] == [(3, ""), (1, "a")]
    assert len(answer["latest"]["flags"]) == 3
    assert answer["next_page_token"] == "b"


def test_empty_answers_say_so() -> None:
    empty: dict[str, list[Message | WaterError]] = {
        "GetLatest": [query_pb2.GetLatestResponse()],
        "ListReadings": [query_pb2.ListReadingsResponse()],
        "AggregateReadings": [query_pb2.AggregateReadingsResponse()],
        "ListSites": [catalog_pb2.ListSitesResponse()],
        "ListSensors": [catalog_pb2.ListSensorsResponse()],
        "GetLedger": [ledger_pb2.GetLedgerResponse()],
        "GetPipelineStatus": [query_pb2.GetPipelineStatusResponse()],
    }
    with AnsweringMesh(**empty) as mesh:
        for words, said in (
            (["latest"], "no readings yet"),
            (["latest", "4"], "no sensor that fits has a reading"),
            (["readings", "1"], "no readings fit"),
            (["aggregate", "1"], "no readings fit"),
            (["sites", "ls"], "no sites"),
            (["sensors", "ls"], "no sensors"),
            (["ledger"], "no reading has arrived"),
            (["status"], "no stage has reported yet"),
        ):
            result = _run(mesh, *words)
            assert said in result.stdout, words
            assert result.exit_code == 0
            _json(_run(mesh, *words, "--json"))


def test_readings_are_rows_with_flags_by_name() -> None:
    with AnsweringMesh(ListReadings=[_rows(2)]) as mesh:
        answer = _json(_run(mesh, "readings", "1", "--start", "2026-01-01", "--end", "2026-01-02T00:00:00+02:00", "--json"))
    asked = mesh.asked[0]
    assert (asked.filter.start_time.ToJsonString(), asked.filter.end_time.ToJsonString()) == (
        "2026-01-01T00:00:00Z",
        "2026-01-01T22:00:00Z",
    )
    assert answer["readings"][1] == {
        "sensor_id": 1,
        "measured_time": "2026-01-01T00:00:01Z",
        "region": "utah",
        "values": [{"parameter": "PARAMETER_PH", "value": 7.48, "flag": "QUALITY_FLAG_SUSPECT"}],
    }


def test_all_readings_are_one_object_over_many_pages() -> None:
    pages = [_rows(2, "a"), _rows(3, "b"), _rows(1)]
    with AnsweringMesh(ListReadings=pages) as mesh:
        answer = _json(_run(mesh, "readings", "1", "--all", "--json"))
    assert [asked.page_token for asked in mesh.asked] == ["", "a", "b"]
    assert len(answer["readings"]) == 6
    assert answer["next_page_token"] == ""


def test_a_limited_answer_says_that_there_is_more() -> None:
    with AnsweringMesh(ListReadings=[_rows(2, "more")]) as mesh:
        result = _run(mesh, "readings", "1", "--limit", "2")
    assert "there are more" in result.stdout
    assert "7.48 ?" in result.stdout


def test_aggregate_asks_for_buckets_groups_and_percentiles() -> None:
    series = query_pb2.AggregateSeries(
        group="utah",
        parameter=PARAMETER_PH,
        bucket_start_us=[START_US],
        count=[1234],
        mean=[7.4],
        min=[7.0],
        max=[8.0],
    )
    series.percentiles.add(percentile=95, values=[7.9])
    with AnsweringMesh(AggregateReadings=[query_pb2.AggregateReadingsResponse(series=[series])]) as mesh:
        words = ["aggregate", "--region", "utah", "--bucket", "1h", "--by", "region", "--percentile", "95"]
        shown = _run(mesh, *words)
        answer = _json(_run(mesh, *words, "--json"))
    assert mesh.asked[0].bucket_duration.seconds == 3600
    assert (mesh.asked[0].grouping, list(mesh.asked[0].percentiles)) == (query_pb2.GROUPING_REGION, [95])
    assert all(words in shown.stdout for words in ("utah", "1 234", "7.40", "p95", "7.90"))
    assert answer["series"][0]["percentiles"] == [{"percentile": 95.0, "values": [7.9]}]


def test_watch_shows_each_update_and_ends_when_told() -> None:
    frames = [query_pb2.WatchReadingsResponse(readings=_latest(1).latest) for _ in range(5)]
    with AnsweringMesh(WatchReadings=frames) as mesh:
        result = _run(mesh, "watch", "--frames", "2", "--interval", "250ms", "--json")
    assert mesh.asked[0].min_interval_duration.nanos == 250_000_000
    assert [json.loads(line)["readings"]["readings"]["ph"] for line in result.stdout.splitlines()] == [[7.48], [7.48]]


def _ledger(caught_up: bool = True, balanced: bool = True) -> ledger_pb2.GetLedgerResponse:
    entry = ledger_pb2.LedgerEntry(gateway_id="g", sent_count=12, accepted_count=10, stored_count=10)
    entry.hour_time.FromMicroseconds(START_US)
    entry.refused.add(reason=REJECTION_REASON_NO_VALUES, count=2)
    return ledger_pb2.GetLedgerResponse(entries=[entry], caught_up=caught_up, balanced=balanced)


@pytest.mark.parametrize(
    ("answer", "words", "code", "said"),
    [
        (_ledger(), [], 0, "caught up and balanced"),
        (_ledger(balanced=False), [], 1, "do not add up"),
        (_ledger(caught_up=False), [], 0, "has not caught up yet"),
        (_ledger(caught_up=False), ["--wait", "500ms"], 1, "has not caught up yet"),
    ],
)
def test_the_ledger_says_whether_it_adds_up(answer: ledger_pb2.GetLedgerResponse, words: list[str], code: int, said: str) -> None:
    with AnsweringMesh(GetLedger=[answer]) as mesh:
        result = _run(mesh, "ledger", "--gateway", "g", *words)
    assert result.exit_code == code
    assert said in result.stdout
    assert "NO_VALUES 2" in result.stdout


def test_ledger_waits_until_the_pipeline_has_caught_up() -> None:
    with AnsweringMesh(GetLedger=[_ledger(caught_up=False), _ledger()]) as mesh:
        answer = _json(_run(mesh, "ledger", "--wait", "30s", "--json"))
    assert len(mesh.asked) == 2
    assert answer["entries"][0]["refused"] == [{"reason": "REJECTION_REASON_NO_VALUES", "count": 2}]
    assert (answer["entries"][0]["duplicate_count"], answer["caught_up"]) == (0, True)


def test_status_names_the_problem_of_a_stage_and_ends_with_1() -> None:
    answer = query_pb2.GetPipelineStatusResponse()
    answer.stages.add(stage="accept", rate_per_s=12.5)
    answer.stages.add(stage="record", backlog_count=7, problem="shard 1 is away").lag_duration.FromSeconds(90)
    answer.readable_time.FromMicroseconds(START_US)
    with AnsweringMesh(GetPipelineStatus=[answer]) as mesh:
        result = _run(mesh, "status")
    assert result.exit_code == 1
    assert all(words in result.stdout for words in ("accept", "12.5", "record", "shard 1 is away", "1 m", "can be read"))
