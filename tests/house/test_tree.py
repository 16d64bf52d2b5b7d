"""What no file of the project may contain, and what must be there."""

import re
import stat
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions

import pytest

from tests.house.test_imports import imported
from tests.house.tree import PRODUCT, ROOT, files, python_files, relative

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


def test_the_environment_is_exactly_what_is_pinned() -> None:
    pinned = set(re.findall(r"^([a-z0-9-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.M))
    own = {"pip", "wheel", "water-quality-mesh"}
    installed = {(canonical(found.name), found.version) for found in distributions() if canonical(found.name) not in own}
    assert installed - pinned == set(), "run `make install`; after a change of pyproject.toml `make constraints` first"


def test_what_the_product_imports_is_named_among_its_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {canonical(re.split(r"[<>=\[ ;]", wanted)[0]) for wanted in project["dependencies"]}
    named |= {"googleapis-common-protos", "pydantic"}  # part of what grpcio-status and pydantic-settings offer
    homes = packages_distributions()
    tops = {what.split(".")[0] for path in python_files(*PRODUCT) for _, what in imported(path)} - set(PRODUCT)
    loose = {
        top
        for top in tops - sys.stdlib_module_names - {"waterquality", "_typeshed"}
        if not named & {canonical(home) for home in homes.get(top, ())}
    }
    assert not loose


def canonical(name: str) -> str:
    """A distribution's name as constraints.txt spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    "name",
    [
        ".ci/run",
        "deploy/find_go.sh",
        "deploy/find_python.sh",
        "deploy/engines/install.sh",
        "deploy/install.sh",
        "deploy/test_tools.sh",
    ],
)
def test_a_script_can_be_run(name: str) -> None:
    assert (ROOT / name).stat().st_mode & stat.S_IXUSR
