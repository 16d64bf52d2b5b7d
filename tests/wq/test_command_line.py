"""The catalog's commands, and what all commands share: errors, usage, help, target, times."""

import json
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result
from waterquality.v1 import catalog_pb2

from mesh.errors import Fault, InvalidArgument, NotFound, Unavailable, Unsupported, WaterError
from tests.builders import START_US
from tests.wq.answering_mesh import AnsweringMesh
from wq.cli import app
from wq.connect import find_target, hint_for, write_endpoint
from wq.plain import shortest
from wq.when import ago, read_seconds, read_time, span

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


def _run(mesh: AnsweringMesh, *words: str) -> Result:
    return CliRunner(env=WIDE | {"WQ_TARGET": mesh.target}).invoke(app, list(words))


def _json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_a_site_is_created_listed_shown_and_changed() -> None:
    site = catalog_pb2.Site(site_id="franklin", region="utah", source_type=catalog_pb2.SOURCE_TYPE_NATURAL, latitude_deg=41.9)
    with AnsweringMesh(
        CreateSite=[catalog_pb2.CreateSiteResponse(site=site)],
        ListSites=[catalog_pb2.ListSitesResponse(sites=[site])],
        GetSite=[catalog_pb2.GetSiteResponse(site=site)],
        UpdateSite=[catalog_pb2.UpdateSiteResponse(site=site)],
    ) as mesh:
        _run(mesh, "sites", "create", "franklin", "--region", "utah", "--source", "natural", "--latitude", "41.9")
        assert "natural" in _run(mesh, "sites", "ls").stdout
        assert _json(_run(mesh, "sites", "show", "franklin", "--json"))["site"]["latitude_deg"] == 41.9
        _run(mesh, "sites", "update", "franklin", "--name", "Franklin Basin", "--etag", "e1")
    assert mesh.asked[0].site == site
    assert list(mesh.asked[3].update_mask.paths) == ["name"]
    assert mesh.asked[3].site.etag == "e1"


def test_a_sensor_is_created_listed_shown_and_changed() -> None:
    sensor = catalog_pb2.Sensor(sensor_id=7, site_id="franklin", parameters=[1, 6], disinfectant="chlorine dioxide")  # type: ignore[list-item]
    seen = catalog_pb2.Sensor(sensor_id=8, first_sight=True)
    with AnsweringMesh(
        CreateSensor=[catalog_pb2.CreateSensorResponse(sensor=sensor)],
        ListSensors=[catalog_pb2.ListSensorsResponse(sensors=[sensor, seen])],
        GetSensor=[catalog_pb2.GetSensorResponse(sensor=sensor)],
        UpdateSensor=[catalog_pb2.UpdateSensorResponse(sensor=sensor)],
    ) as mesh:
        words = ["--site", "franklin", "--parameter", "ph", "--parameter", "disinfectant", "--disinfectant", "chlorine dioxide"]
        _run(mesh, "sensors", "create", "7", *words)
        listed = _run(mesh, "sensors", "ls").stdout
        assert _json(_run(mesh, "sensors", "show", "7", "--json"))["sensor"]["parameters"][1] == "PARAMETER_DISINFECTANT"
        _run(mesh, "sensors", "update", "7", "--state", "maintenance", "--calibrated", "2026-01-01")
    assert mesh.asked[0].sensor == sensor
    assert "chlorine dioxide" in listed
    assert "not described yet" in listed
    assert list(mesh.asked[3].update_mask.paths) == ["state", "calibrated_time"]


def test_a_change_of_nothing_is_a_usage_error() -> None:
    with AnsweringMesh() as mesh:
        assert _run(mesh, "sites", "update", "franklin").exit_code == 2


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (NotFound("no site 'x'"), "wq sites ls"),
        (Unavailable("failed to connect to all addresses; last error: refused"), "make up"),
        (Unavailable("the database is away"), "wq status"),
        (Unavailable("not readable yet", reason="NOT_YET_READABLE"), "wq status"),
        (Unsupported("later"), "does not serve that yet"),
        (InvalidArgument("filter: too wide"), ""),
        (Fault("internal error"), ""),
    ],
)
def test_an_error_of_the_server_is_one_line_a_hint_and_exit_code_1(error: WaterError, hint: str) -> None:
    with AnsweringMesh(GetSite=[error]) as mesh:
        result = _run(mesh, "sites", "show", "x", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert hint in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "words",
    [["readings", "1", "--start", "yesterday"], ["latest", "--parameter", "salt"], ["latest", "--without", "bad"],
     ["aggregate", "--bucket", "1 hour"], ["aggregate", "--by", "moon"], ["readings", "one"], ["nonsense"]],
)  # fmt: skip
def test_a_wrong_option_is_a_usage_error(words: list[str]) -> None:
    with AnsweringMesh() as mesh:
        result = _run(mesh, *words)
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    "words",
    [["replay"], ["latest"], ["readings"], ["aggregate"], ["watch"], ["ledger"], ["status"], ["sites", "create"],
     ["sensors", "update"]],
)  # fmt: skip
def test_every_command_has_a_help_with_an_example(words: list[str]) -> None:
    result = CliRunner(env=WIDE).invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert f"wq {' '.join(words)}" in result.stdout.split("Example", 1)[1]
    assert "--json" in result.stdout


def test_the_target_is_the_one_given_then_the_environments_then_the_running_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WQ_TARGET", raising=False)
    monkeypatch.setenv("WQ_DATA", str(tmp_path))
    assert find_target(None) == "127.0.0.1:50051"
    write_endpoint(tmp_path / "endpoint.json", "127.0.0.1:4711")
    assert find_target(None) == "127.0.0.1:4711"
    monkeypatch.setenv("WQ_TARGET", "mesh:1")
    assert find_target(None) == "mesh:1"
    assert find_target("other:2") == "other:2"
    monkeypatch.delenv("WQ_TARGET")
    (tmp_path / "endpoint.json").write_text("{")
    assert find_target(None) == "127.0.0.1:50051"


def test_times_may_be_dates_moments_or_how_long_ago() -> None:
    now = Timestamp()
    now.FromMicroseconds(START_US)
    moment = now.ToDatetime(UTC)
    assert read_time("2h", "--start", moment).ToJsonString() == "2025-12-31T22:00:00Z"
    assert read_time("now", "--start", moment) == now
    assert read_time("2026-01-01T01:00:00+01:00", "--start") == now
    assert read_seconds("1.5d", "--x") == 129_600


def test_durations_read_as_a_person_says_them() -> None:
    spans = [span(seconds) for seconds in (0.34, 12, 180, 7200, 90_000, 200_000, 1e8)]
    assert spans == ["340 ms", "12 s", "3 m", "2 h", "25 h", "2 d", "3 y"]
    assert ago(START_US, START_US + 5_000_000) == "5 s ago"
    assert ago(START_US + 5_000_000, START_US) == "in 5 s"


def test_floats_are_as_short_as_they_can_be() -> None:
    assert [shortest(float(np.float32(value))) for value in (7.48, 0.1, 1e-8, 3e38)] == [7.48, 0.1, 1e-8, 3e38]
    assert shortest(float("nan")) is None


def test_hints_are_only_given_where_there_is_something_to_try() -> None:
    assert hint_for(Unavailable("Socket closed"))
    assert hint_for(Fault("x")) == ""
