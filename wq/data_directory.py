"""The folder that an embedded deployment lives in: whose it is, which version, and that nobody else uses it now."""

import errno
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
DEPLOYMENT = "deployment.json"
_BEFORE_ANY_DATA = {"lock", "deployment.new", "wq.toml", "lost+found"}  # a disk of its own has the last from the beginning


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
    with other numbers, not ours (then nothing in it is touched), or its disk is full."""
    path = path.absolute()
    try:
        _make(path)
        _must_be_ours(path)
        handle = (path / "lock").open("a+")
    except OSError as error:
        raise _unusable(path, error) from None
    with handle:
        try:
            _lock(handle.fileno(), path)
            _check_space(path)
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            deployment, is_new = _deployment(path, Deployment(FORMAT, slots, partitions))
            data = DataDirectory(path, deployment, is_new)
            data.objects.mkdir(mode=0o700, exist_ok=True)
            data.endpoint.unlink(missing_ok=True)  # a killed run leaves one that names a port where nobody listens
        except OSError as error:
            raise _unusable(path, error) from None
        yield data


def _make(path: Path) -> None:
    """Others may pass through what is made, as PostgreSQL's own user must, but not look around."""
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(0o711)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory")


def _unusable(path: Path, error: OSError) -> SetupError:
    return SetupError(f"data directory {path}: {error.strerror}; make that right, or choose another directory with --data")


def _must_be_ours(path: Path) -> None:
    if (path / DEPLOYMENT).exists():
        return
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in _BEFORE_ANY_DATA)
    if strangers:
        raise SetupError(f"{path} is no data directory of ours (it holds {strangers[0]!r}): choose an empty one with --data")


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = (path / "lock").read_text().strip()
        who, how = (f"process {owner}", f"Ctrl-C there, or kill {owner}") if owner else ("another process", "Ctrl-C there")
        raise SetupError(
            f"data directory {path} is in use by {who}: stop that one ({how}), or choose another directory with --data"
        ) from None


def _check_space(path: Path) -> None:
    free = shutil.disk_usage(path).free
    if free < LEAST_FREE_BYTES:
        raise SetupError(
            f"data directory {path}: only {free / 1e6:.0f} MB are free on its disk, {LEAST_FREE_BYTES / 1e6:.0f} MB are needed: "
            "free some space or choose another directory with --data"
        )


def _deployment(path: Path, wanted: Deployment) -> tuple[Deployment, bool]:
    file = path / DEPLOYMENT
    if not file.exists():
        _write_durably(file, json.dumps(asdict(wanted)))
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


def _write_durably(file: Path, content: str) -> None:
    """Whole or not at all, and before anything that depends on it."""
    draft = file.with_suffix(".new")
    with draft.open("w") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    draft.rename(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
