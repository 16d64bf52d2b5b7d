"""Processes that outlive the command that started them: known again by process id and start time, so that a number that is
another's by now is never touched; paused, resumed and ended whole, with everything that they started."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SetupError

_PROC = Path("/proc")
_LOOK_S = 0.02
_KILL_S = 30.0
_SPAWN_S = 30.0
_SPAWN = 'log=$1; shift; setsid -- "$@" >> "$log" 2>&1 & echo $!'  # goes on when this shell has ended, as nobody's child
_LOG_LIMIT_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Process:
    """`started`: the boot, and the clock tick in it at which the process began: no two processes have all three in common."""

    pid: int
    started: str


@dataclass(frozen=True, slots=True)
class _Entry:
    state: str
    parent: int
    session: int
    threads: int
    tick: str

    @property
    def lives(self) -> bool:
        """A killed process whose first thread has ended keeps its ports until the others have."""
        return self.state not in "ZXx" or self.threads > 1


def spawn(command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> Process:
    """Starts a program in a session of its own; what it says is added to `log`. Whether it stays alive is not waited for."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
    log.touch(0o600)
    try:
        done = subprocess.run(
            ["sh", "-c", _SPAWN, "sh", str(log), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={"PATH": os.environ.get("PATH", os.defpath), **environment},
            cwd=folder,
            timeout=_SPAWN_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"{command[0]} cannot be started: {error}") from error
    pid = int(done.stdout)
    return identify(pid) or Process(pid, "gone")


def identify(pid: int) -> Process | None:
    """The process that has this number now; None: nobody has."""
    entry = _entry(pid)
    return Process(pid, _started(entry)) if entry and entry.lives else None


def is_alive(process: Process) -> bool:
    """Whether it still runs, or is paused; a zombie is not alive."""
    return identify(process.pid) == process


def is_paused(process: Process) -> bool:
    """Whether it was stopped by SIGSTOP and not continued."""
    entry = _entry(process.pid)
    return is_alive(process) and entry is not None and entry.state == "T"


def kill(processes: Iterable[Process]) -> None:
    """SIGKILL to all of them and everything they started; nothing of them lives on return. Those that are gone are let be."""
    members = _freeze(processes)
    for member in members:
        _signal(member, signal.SIGKILL)
    if not _wait(lambda: not any(map(is_alive, members)), _KILL_S):
        raise SetupError(f"processes {sorted(member.pid for member in members if is_alive(member))} do not end even by SIGKILL")


def pause(processes: Iterable[Process]) -> None:
    """SIGSTOP to all of them and everything they started."""
    _freeze(processes)


def resume(processes: Iterable[Process]) -> None:
    """SIGCONT to all of them and everything they started."""
    for member in _families(processes):
        _signal(member, signal.SIGCONT)


def end(processes: Sequence[Process], within_s: float) -> bool:
    """SIGTERM to these, one after the other; what is left after that time is killed. Whether each ended by itself."""
    members = _families(processes)
    resume(processes)
    by_itself = True
    for process in processes:
        _signal(process, signal.SIGTERM)
        by_itself &= _wait(lambda process=process: not is_alive(process), within_s)  # type: ignore[misc]
    by_itself &= _wait(lambda: not any(map(is_alive, members)), 1.0)
    kill({*members, *processes})
    return by_itself


def wait_until_gone(process: Process, within_s: float) -> bool:
    """Whether it has ended within that time."""
    return _wait(lambda: not is_alive(process), within_s)


def _freeze(processes: Iterable[Process]) -> set[Process]:
    """Stops them, the eldest first, until nobody is left who could start another; all of them."""
    roots = list(processes)
    frozen: set[Process] = set()
    while fresh := _families(roots) - frozen:
        for member in sorted(fresh, key=lambda each: (each not in roots, each.pid)):
            _signal(member, signal.SIGSTOP)
        frozen |= fresh
    return frozen


def _families(processes: Iterable[Process]) -> set[Process]:
    """Those that live, what they started, and what shares a session with one of them."""
    entries = {int(path.name): entry for path in _PROC.iterdir() if path.name.isdigit() and (entry := _entry(int(path.name)))}
    roots = {process.pid for process in processes if is_alive(process)}
    found = set(roots)
    while more := {
        pid
        for pid, entry in entries.items()
        if entry.lives and (entry.parent in found or entry.session in roots) and pid not in found
    }:
        found |= more
    return {Process(pid, _started(entries[pid])) for pid in found if pid in entries}


def _signal(process: Process, number: signal.Signals) -> None:
    if is_alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _wait(holds: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _entry(pid: int) -> _Entry | None:
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Entry(fields[0], int(fields[1]), int(fields[3]), int(fields[17]), fields[19])


def _started(entry: _Entry) -> str:
    return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}:{entry.tick}"
