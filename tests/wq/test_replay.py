"""`wq replay` as a person runs it, against a server that counts, honestly or not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.wq.counting_mesh import CountingMesh
from tests.wq.files import EPA_HEADER, read_file, write_file
from wq.cli import app

DATA = Path(__file__).parents[3] / "shared" / "data"
ROW = "pond,2024-06-10,13:15:00,UTC,7.48,-0.04,23.7,8.91,0.414"


@pytest.fixture
def mesh() -> Iterator[CountingMesh]:
    """An honest one."""
    with CountingMesh() as mesh:
        yield mesh


def _replay(mesh: CountingMesh, *words: object) -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, words), "--region", "utah", "--target", mesh.target])


def _rows(count: int, ph: str = "7.48") -> list[str]:
    return [
        ROW.replace("13:15:00", f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}").replace("7.48", ph)
        for second in range(count)
    ]


def _answer(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_a_real_file_arrives_value_by_value_and_the_ledger_agrees(mesh: CountingMesh) -> None:
    path = DATA / "logan_river" / "FranklinBasin2014.csv.gz"
    result = _replay(mesh, path, "--sensor-id", 7, "--gateway", "g-7")
    assert result.exit_code == 0, result.output
    assert "nothing lost" in result.stdout
    file = read_file(path, sensor_id=7).readings
    np.testing.assert_array_equal(mesh.readings.measured_at_us, file.measured_at_us)
    np.testing.assert_array_equal(mesh.readings.values, file.values)
    assert set(mesh.readings.sensor_id.tolist()) == {7}
    assert [(opening.gateway_id, opening.region, opening.backfill) for opening in mesh.openings] == [("g-7", "utah", False)]
    assert mesh.positions == [f"position-{len(mesh.batches)}"]


def test_the_answer_in_json_counts_files_rows_refusals_and_the_ledgers_change(mesh: CountingMesh, tmp_path: Path) -> None:
    rows = [*_rows(20), "pond,2024-06-11,13:30:00,UTC,,,,,", ROW.replace("7.48", "x")]
    path = write_file(tmp_path, [EPA_HEADER + ",odd", *(row + ",1" for row in rows)])
    _replay(mesh, path)
    answer = _answer(_replay(mesh, path, "--json"))
    assert answer["files"][0] | {"file": ""} == {
        "file": "",
        "format": "EPA lake buoy",
        "sensor_ids": [1],
        "row_count": 22,
        "reading_count": 21,
        "unreadable_count": 1,
        "unreadable": [{"line": 23, "problem": "ph: 'x' is no number"}],
        "unknown_columns": ["odd"],
        "absent_columns": [],
        "problem": "",
    }
    assert answer["refused"] == [{"reason": "REJECTION_REASON_NO_VALUES", "count": 1}]
    assert answer["ledger"]["sent_count"] == 21
    assert (answer["ledger"]["stored_count"], answer["ledger"]["duplicate_count"]) == (0, 20)
    assert (answer["caught_up"], answer["balanced"], answer["problems"]) == (True, True, [])


def test_each_file_is_a_station_of_its_own(mesh: CountingMesh, tmp_path: Path) -> None:
    files = [write_file(tmp_path, [EPA_HEADER, *_rows(3)], name) for name in ("a.csv", "b.csv.gz", "c.csv")]
    assert _replay(mesh, *files, "--sensor-id", 100).exit_code == 0
    assert sorted(set(mesh.readings.sensor_id.tolist())) == [100, 110, 120]


def test_a_backlog_goes_through_the_backfill_lane(mesh: CountingMesh, tmp_path: Path) -> None:
    assert _replay(mesh, write_file(tmp_path, [EPA_HEADER, *_rows(3)]), "--backfill").exit_code == 0
    assert [opening.backfill for opening in mesh.openings] == [True]


def test_a_ledger_that_misses_a_reading_ends_with_1(tmp_path: Path) -> None:
    with CountingMesh(forgets=1) as mesh:
        result = _replay(mesh, write_file(tmp_path, [EPA_HEADER, *_rows(50)]))
    assert result.exit_code == 1
    assert "50 readings were sent, the ledger has 49" in result.stdout
    assert "nothing lost" not in result.stdout


def test_after_a_reconnect_the_count_may_lie_between_handed_over_and_transmitted(tmp_path: Path) -> None:
    with CountingMesh(cuts=1) as mesh:
        answer = _answer(_replay(mesh, write_file(tmp_path, [EPA_HEADER, *_rows(50)]), "--json"))
    assert (answer["reconnect_count"], answer["handed_over_count"], answer["transmitted_count"]) == (1, 50, 100)
    assert (answer["ledger"]["stored_count"], answer["ledger"]["duplicate_count"]) == (50, 50)
    assert answer["problems"] == []


def test_a_pipeline_that_never_catches_up_is_no_proof(tmp_path: Path) -> None:
    with CountingMesh(is_behind=True) as mesh:
        result = _replay(mesh, write_file(tmp_path, [EPA_HEADER, *_rows(3)]), "--wait", "1s")
    assert result.exit_code == 1
    assert "did not finish earlier work within 1 s" in result.stderr
    assert mesh.batches == []


def test_what_a_truncated_file_still_holds_is_sent_and_the_command_ends_with_1(mesh: CountingMesh, tmp_path: Path) -> None:
    path = write_file(tmp_path, [EPA_HEADER, *_rows(5000)], "cut.csv.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    result = _replay(mesh, path)
    assert result.exit_code == 1
    assert "cut off after line" in result.stdout
    assert 0 < len(mesh.readings) < 5000


def test_a_header_without_rows_is_replayed_as_nothing(mesh: CountingMesh, tmp_path: Path) -> None:
    result = _replay(mesh, write_file(tmp_path, [EPA_HEADER]))
    assert result.exit_code == 0, result.output
    assert "it has a header and no rows" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["gone.csv"], 1, "gone.csv: no such file"),
        (["."], 1, "is a directory"),
        (["--speed", "fast", "gone.csv"], 2, "write max, realtime"),
        (["--wait", "long", "gone.csv"], 2, "no duration"),
        (["--sensor-id", "0", "gone.csv"], 2, "greater than"),
        (["--columns", "gone.toml", "gone.csv"], 1, "gone.toml: no such file"),
        ([], 2, "FILE"),
    ],
)
def test_a_wrong_command_line_says_what_would_be_right(mesh: CountingMesh, words: list[str], code: int, said: str) -> None:
    result = _replay(mesh, *words)
    assert (result.exit_code, mesh.openings) == (code, [])
    assert said in result.stderr
    assert result.stdout == ""


def test_nothing_is_sent_when_one_of_the_files_cannot_be_read(mesh: CountingMesh, tmp_path: Path) -> None:
    good = write_file(tmp_path, [EPA_HEADER, ROW])
    odd = write_file(tmp_path, ["a,b", "1,2"], "odd.csv")
    assert _replay(mesh, good, odd).exit_code == 1
    assert mesh.openings == []


def test_a_column_of_sensor_ids_excludes_the_option(mesh: CountingMesh, tmp_path: Path) -> None:
    column_map = tmp_path / "MAP.toml"
    column_map.write_text('sensor_id = "s"\n[time]\ncolumns = ["t"]\nzone = "UTC"\n[[column]]\nname = "pH"\nparameter = "ph"\n')
    path = write_file(tmp_path, ["t,s,pH", "2024-07-01 10:00,17,7", "2024-07-01 10:00,18,7"])
    assert _replay(mesh, path, "--columns", column_map, "--sensor-id", 3).exit_code == 2
    assert _replay(mesh, path, "--columns", column_map).exit_code == 0
    assert sorted(mesh.readings.sensor_id.tolist()) == [17, 18]


def test_nobody_at_the_port_is_said_in_one_line_with_a_hint(tmp_path: Path) -> None:
    path = write_file(tmp_path, [EPA_HEADER, ROW])
    result = CliRunner().invoke(app, ["replay", str(path), "--region", "utah", "--target", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "error: cannot connect" in result.stderr
    assert "make up" in result.stderr
    assert "Traceback" not in result.output


def test_in_rhythm_readings_come_when_they_are_due(mesh: CountingMesh, tmp_path: Path) -> None:
    path = write_file(tmp_path, [EPA_HEADER, *_rows(60)])
    start = monotonic()
    assert _replay(mesh, path, "--speed", "60x").exit_code == 0
    assert monotonic() - start > 0.7
    assert len(mesh.readings) == 60
    assert len(mesh.batches) > 1


def test_ctrl_c_stops_and_says_what_was_acknowledged(mesh: CountingMesh, tmp_path: Path) -> None:
    path = write_file(tmp_path, [EPA_HEADER, *_rows(5000)])
    command = [sys.executable, "-m", "wq", "replay", str(path), "--region", "utah", "--speed", "realtime"]
    environment = os.environ | {"WQ_TARGET": mesh.target, "PYTHONPATH": "gen"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    try:
        assert mesh.has_batches.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert f"{len(mesh.readings)} readings were acknowledged" in out.decode()
    assert b"Traceback" not in err
