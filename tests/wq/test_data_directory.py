"""The data directory: made once, used by one process, and never mistaken for another folder."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh.errors import SetupError
from wq.data_directory import DataDirectory, default_path, open_data_directory


def made(path: Path, slots: int = 8, partitions: int = 4) -> DataDirectory:
    with open_data_directory(path, slots, partitions) as data:
        return data


def problem(path: Path, slots: int = 8, partitions: int = 4) -> str:
    with pytest.raises(SetupError) as caught:
        made(path, slots, partitions)
    assert "\n" not in caught.value.message
    assert "--data" in caught.value.message
    return caught.value.message


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("strict_umask")
def test_what_is_made_lets_others_through_but_not_look_whatever_the_umask(tmp_path: Path) -> None:
    data = made(tmp_path / "a" / "b")
    assert data.is_new
    assert [mode(folder) for folder in (tmp_path / "a", data.path, data.objects)] == [0o711, 0o711, 0o700]


def test_a_folder_that_was_there_keeps_its_rights(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o750)
    made(tmp_path / "mine")
    assert mode(tmp_path / "mine") == 0o750


def test_a_second_opening_goes_on_with_it_and_forgets_where_a_killed_run_listened(tmp_path: Path) -> None:
    first = made(tmp_path)
    first.endpoint.write_text("{}")
    second = made(tmp_path)
    assert not second.is_new
    assert second.deployment == first.deployment
    assert not second.endpoint.exists()


@pytest.mark.parametrize("left", ["deployment.new", "lost+found", "wq.toml", "lock"])
def test_what_a_start_broken_off_or_a_new_disk_leaves_is_no_stranger(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("")
    assert made(tmp_path).is_new


def test_a_folder_of_somebody_else_is_refused_and_nothing_in_it_is_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "no data directory of ours (it holds 'thesis.tex'): choose an empty one" in problem(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_in_use_is_refused_with_the_process_that_has_it(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from wq.data_directory import open_data_directory\n"
    hold += "with open_data_directory(Path(sys.argv[1]), 8, 4): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        said = problem(tmp_path)
        assert f"in use by process {holder.pid}: stop that one (Ctrl-C there, or kill {holder.pid})" in said
        holder.kill()
        holder.wait()
        assert not made(tmp_path).is_new  # the lock went with its holder, however that ended


def test_one_of_another_format_is_refused_with_both_formats(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "deployment.json").write_text(json.dumps({"format": 99, "slots": 8, "partitions": 4}))
    assert "has format 99, this version reads format 1: use the version of wq that made it" in problem(tmp_path)


def test_other_numbers_than_it_was_made_with_are_refused_with_the_mend(tmp_path: Path) -> None:
    made(tmp_path, slots=16, partitions=2)
    assert "was made with slots = 16, the settings say 8: set WQ_SLOTS=16" in problem(tmp_path, 8, 2)
    assert "was made with partitions = 2, the settings say 4: set WQ_PARTITIONS=2" in problem(tmp_path, 16, 4)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"format": 1}', b'{"format": 1, "slots": null, "partitions": 4}']
)
def test_a_damaged_description_is_named(tmp_path: Path, content: bytes) -> None:
    made(tmp_path)
    (tmp_path / "deployment.json").write_bytes(content)
    assert "deployment.json is damaged: restore it from a backup" in problem(tmp_path)


def test_a_file_in_its_place_or_above_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "it is no directory" in problem(tmp_path / "file")
    assert "Not a directory" in problem(tmp_path / "file" / "below")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_nearly_full_disk_is_refused_with_what_is_free_and_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 10**6, 10**6))
    assert "only 1 MB are free on its disk, 537 MB are needed: free some space" in problem(tmp_path)


def test_where_it_is_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WQ_DATA", "/there")
    assert default_path() == Path("/there")
    monkeypatch.delenv("WQ_DATA")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_path() == Path("/var/lib/water-quality-mesh")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/my/data")
    assert default_path() == Path("/my/data/water-quality-mesh")
