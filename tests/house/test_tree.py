"""What no file of the project may contain, and what must be there."""

import re
import stat

import pytest

from tests.house.tree import ROOT, files, relative

MACHINE_PATH = re.compile(r"(?<![\w.<])/(?:home|Users|root|work|opt/wheels|mnt)/\w")
INDEXES = ("pypi" + ".org", "python" + "hosted.org", "golang" + ".org", "deb.debian" + ".org", "npmjs" + ".org", "crates" + ".io")
BINARY = {".binpb", ".gz", ".png", ".parquet"}


def texts() -> dict[str, str]:
    found = (path for path in files() if path.suffix not in BINARY)
    return {relative(path).as_posix(): path.read_text(errors="replace") for path in found}


def test_no_file_names_a_path_of_one_machine() -> None:
    assert not [f"{name}: {found.group()}" for name, text in texts().items() if (found := MACHINE_PATH.search(text))]


def test_no_file_names_a_package_index() -> None:
    assert not [f"{name}: {index}" for name, text in texts().items() for index in INDEXES if index in text]


def test_every_package_is_pinned_to_one_version_and_hashed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    options = [line for line in lines if line.startswith("-")]
    loose = [line for line in lines if line[:1].isalpha() and not re.match(r"[a-z0-9-]+==[\w.]+( ; .+)? \\$", line)]
    assert (options, loose) == ([], [])
    assert sum("--hash=sha256:" in line for line in lines) > sum(line[:1].isalpha() for line in lines)


def test_every_dependency_of_the_project_is_among_the_pinned() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    wanted = {
        name.lower().replace("_", "-")
        for name in re.findall(r'^    "([A-Za-z0-9_-]+)(?:\[\w+\])?(?:[<>=,.\d]*)",$', project, re.M)
    }
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), re.M))
    assert len(wanted) > 20
    assert wanted <= pinned


@pytest.mark.parametrize("name", [".ci/run", "deploy/find_python.sh", "deploy/install.sh", "deploy/test_tools.sh"])
def test_a_script_can_be_run(name: str) -> None:
    assert (ROOT / name).stat().st_mode & stat.S_IXUSR
