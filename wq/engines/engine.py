"""What every engine can do, whatever it is: start, say whether it answers, end."""

from pathlib import Path
from typing import Protocol

from wq.engines.processes import Process


class NotAnswering(Exception):
    """It does not serve; the message says why, for people."""


class Engine(Protocol):
    """One server of the set. `ports`: those it listens on, by their names in the state."""

    ports: dict[str, int]

    @property
    def name(self) -> str:
        """Unique in the set: its kind, and where there are several, a hyphen and which."""
        ...

    @property
    def address(self) -> str:
        """Where it is reached, for people; no secret in it."""
        ...

    @property
    def log(self) -> Path:
        """What it says."""
        ...

    def launch(self) -> list[Process]:
        """Starts it and returns, perhaps before it answers. Raises SetupError when something it needs is missing."""
        ...

    def probe(self) -> str:
        """Its version, when it serves us. Raises NotAnswering within a few seconds."""
        ...

    def furnish(self) -> None:
        """What must be there before it is of use (a bucket, a database) is there on return; called when it answers."""
        ...

    def end(self, processes: list[Process]) -> None:
        """Ends it in order, by force where it does not. What it has confirmed is kept."""
        ...


def last_lines(log: Path, count: int = 4) -> list[str]:
    """The end of a log; nothing when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()][-count:]
    except OSError:
        return []


def write_version(folder: Path, version: str) -> None:
    """Notes which version is started in this folder: what is installed later may be another."""
    (folder / "version").write_text(version)


def read_version(folder: Path) -> str:
    """The version that was started in this folder."""
    try:
        return (folder / "version").read_text()
    except OSError:
        return ""
