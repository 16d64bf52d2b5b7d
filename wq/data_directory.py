"""The folder that an embedded deployment lives in: whose it is, which version, and that nobody else uses it now."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mesh.errors import SetupError

FORMAT = 1
LEAST_FREE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was fixed when the data directory was made."""

    format: int
    slots: int
    partitions: int


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """An open data directory; `is_new`: made just now."""

    path: Path
    deployment: Deployment
    is_new: bool

    @property
    def postgres(self) -> Path:
        """Where the embedded PostgreSQL keeps its data."""
        return self.path / "postgres"

    @property
    def objects(self) -> Path:
        """Where objects are kept."""
        return self.path / "objects"

    @property
    def endpoint(self) -> Path:
        """Says where the running system listens; see wq.connect."""
        return self.path / "endpoint.json"


def default_path() -> Path:
    """WQ_DATA, else a place that survives: /var/lib/water-quality-mesh for root (whose home PostgreSQL's own user cannot
    enter), else the user's data folder after the XDG Base Directory specification."""
    if named := os.environ.get("WQ_DATA"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/water-quality-mesh")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "water-quality-mesh"


@contextmanager
def open_data_directory(path: Path, slots: int, partitions: int) -> Iterator[DataDirectory]:
    """Makes or opens it and holds its lock. Raises SetupError, naming the mend, when it is in use, of another format, made
    with other numbers, not ours, or its disk is full."""
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = (path / "lock").open("a+")
    except OSError as error:
        raise SetupError(f"data directory {path}: {error.strerror}; choose another with --data") from None
    with handle:
        _lock(handle.fileno(), path)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        _check_space(path)
        deployment, is_new = _deployment(path, Deployment(FORMAT, slots, partitions))
        yield DataDirectory(path, deployment, is_new)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = (path / "lock").read_text().strip() or "another process"
        raise SetupError(
            f"data directory {path} is in use by process {owner}: stop that one (Ctrl-C there, or kill {owner}), "
            "or choose another directory with --data"
        ) from None


def _check_space(path: Path) -> None:
    free = shutil.disk_usage(path).free
    if free < LEAST_FREE_BYTES:
        raise SetupError(
            f"data directory {path}: only {free / 1e6:.0f} MB are free on its disk, {LEAST_FREE_BYTES / 1e6:.0f} MB are needed: "
            "free some space or choose another directory with --data"
        )


def _deployment(path: Path, wanted: Deployment) -> tuple[Deployment, bool]:
    file = path / "deployment.json"
    if not file.exists():
        strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in {"lock", "wq.toml", "postgres"})
        if strangers:
            raise SetupError(f"{path} is no data directory of ours (it holds {strangers[0]}): choose an empty one with --data")
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(wanted)))
        draft.rename(file)
        return wanted, True
    try:
        content = json.loads(file.read_text())
        found = Deployment(int(content["format"]), int(content["slots"]), int(content["partitions"]))
    except (ValueError, KeyError, TypeError):
        raise SetupError(f"{file} is damaged: restore it from a backup, or choose another directory with --data") from None
    if found.format != FORMAT:
        raise SetupError(
            f"data directory {path} has format {found.format}, this version reads format {FORMAT}: "
            "use the version of wq that made it, or choose another directory with --data"
        )
    for name in ("slots", "partitions"):
        have, want = getattr(found, name), getattr(wanted, name)
        if have != want:
            raise SetupError(
                f"data directory {path} was made with {name} = {have}, the settings say {want}: "
                f"set WQ_{name.upper()}={have}, or choose another directory with --data"
            )
    return found, False
