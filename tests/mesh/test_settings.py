"""Settings: what counts more, and that every problem is told at once, in words that help."""

from pathlib import Path
from typing import Any

import pytest

from mesh.errors import SetupError
from mesh.settings import Settings, read_settings


def problem(flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None, file: Path | None = None) -> str:
    with pytest.raises(SetupError) as caught:
        read_settings(file, flags or {}, environment or {})
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_flag_counts_more_than_the_environment_that_more_than_the_file_that_more_than_the_default(tmp_path: Path) -> None:
    file = tmp_path / "wq.toml"
    file.write_text("grpc_port = 1\nhttp_port = 2\nslots = 4\n")
    settings = read_settings(file, {"grpc_port": 5, "http_port": None}, {"WQ_GRPC_PORT": "7", "WQ_HTTP_PORT": "8"})
    assert (settings.grpc_port, settings.http_port, settings.slots, settings.partitions) == (5, 8, 4, 4)


def test_all_problems_are_told_at_once_with_name_value_and_rule(tmp_path: Path) -> None:
    file = tmp_path / "wq.toml"
    file.write_text("no_such_setting = 1\n")
    said = problem({"grpc_port": 70_000}, {"WQ_SLOTS": "many"}, file)
    assert "grpc_port = 70000: Input should be less than or equal to 65535" in said
    assert "slots = 'many': Input should be a valid integer" in said
    assert "no_such_setting = 1: Extra inputs are not permitted; see docs/settings.md for the names" in said


def test_two_ports_that_are_one_contradict_each_other() -> None:
    assert problem({"grpc_port": 6000, "http_port": 6000}) == (
        "settings: grpc_port and http_port are both 6000: give one of them another port (0 takes a free one)"
    )
    assert read_settings(None, {"grpc_port": 0, "http_port": 0}, {}).grpc_port == 0


@pytest.mark.parametrize("content", [b"grpc_port = ", b"\xff\xfe", b"[grpc_port]\nx = 1\n"])
def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "wq.toml"
    file.write_bytes(content)
    assert "wq.toml" in problem(file=file) or "grpc_port" in problem(file=file)


def test_a_settings_file_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.toml'}: no such settings file" in problem(file=tmp_path / "none.toml")
    assert str(tmp_path) in problem(file=tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("retention_days", "future_tolerance_s", "drain_s") for value in ("inf", "nan", "-1")),
        ("fleet_period_s", "0"),
        ("horizon_us", "9999999999999999"),
        ("log_level", "loud"),
        ("slots", "1"),
        ("max_batch_bytes", "9999999"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: str) -> None:
    assert f"{name} = {value!r}: " in problem(environment={f"WQ_{name.upper()}": value})


def test_settings_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().grpc_port = 1  # type: ignore[misc]


def test_a_secret_that_is_wrong_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "wq.toml"
    file.write_text("webhook_secret = 12345678\n")
    with pytest.raises(SetupError, match="webhook_secret") as caught:
        read_settings(file, {}, {})
    assert "12345678" not in caught.value.message


def test_archives_are_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WQ_ARCHIVES", "east=/objects/east, west=/objects/west")
    assert read_settings(None, {}).archives == {"east": Path("/objects/east"), "west": Path("/objects/west")}
    monkeypatch.setenv("WQ_ARCHIVES", "/objects/east")
    with pytest.raises(SetupError, match="names no directory: give NAME=DIRECTORY"):
        read_settings(None, {})
