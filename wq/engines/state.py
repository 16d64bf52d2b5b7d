"""What an engine set is, kept in engines.json in its folder: size, ports, secrets, and which processes are its own."""

import fcntl
import json
import os
import secrets
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mesh.errors import SetupError
from wq.engines.ports import choose_port
from wq.engines.processes import Process

FILE = "engines.json"
VERSION = 1
BROKERS = (1, 3)
_LOCK_S = 180.0
_LOOK_S = 0.1


@dataclass(slots=True)
class State:
    """`databases[k]`: which cluster, from 0, holds the database shard_<k>. `processes`: those that were started, by engine, also
    when they have ended since. Never shown: it holds passwords."""

    brokers: int
    databases: list[int] = field(default_factory=list)
    fsync: bool = True
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, list[Process]] = field(default_factory=dict)
    kafka_cluster: str = field(default_factory=lambda: urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
    rabbitmq_node: str = field(default_factory=lambda: f"wq-{secrets.token_hex(4)}@localhost")
    password: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    s3_secret: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)

    @property
    def clusters(self) -> int:
        """How many PostgreSQL clusters hold shards."""
        return max(self.databases, default=-1) + 1

    def port(self, name: str) -> int:
        """The port of this name, chosen when it is first asked for, and kept."""
        if name not in self.ports:
            self.ports[name] = choose_port(self.ports.values())
        return self.ports[name]

    def grow(self, clusters: int, per_cluster: int) -> None:
        """Adds databases until each of so many clusters has so many; new ones are numbered on, none is moved."""
        for cluster in range(clusters):
            missing = per_cluster - self.databases.count(cluster)
            self.databases += [cluster] * missing


def read_state(folder: Path) -> State | None:
    """None: no engine set was ever made in this folder. Raises SetupError for what is not ours, or cannot be read."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text())
        if content.pop("version") != VERSION:
            raise ValueError(f"not version {VERSION}")
        processes = {name: [Process(**each) for each in found] for name, found in content.pop("processes").items()}
        return State(**content, processes=processes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SetupError(f"{path} cannot be used ({error}): restore it, or choose another folder with --dir") from error


def write_state(folder: Path, state: State) -> None:
    """Whole or not at all, for our eyes only."""
    write_private(folder / FILE, json.dumps({"version": VERSION, **asdict(state)}, indent=1) + "\n")


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replaces a file by one of this content that nobody else may read."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One command or thread at a time; others wait up to three minutes. Makes the folder, which others may pass but not list."""
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o711)  # PostgreSQL's user must get through it
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(f"the folder {folder} cannot be written ({error.strerror}): choose another one with --dir") from error
    try:
        _wait_for(handle, folder)
        yield
    finally:
        os.close(handle)


def _wait_for(handle: int, folder: Path) -> None:
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SetupError(f"another command works on the engines in {folder}: wait until it has ended") from None
            time.sleep(_LOOK_S)
        else:
            return
