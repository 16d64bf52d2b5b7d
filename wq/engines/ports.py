"""Ports of the loopback interface: free ones are chosen, and who holds one that is taken is named."""

import random
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from mesh.errors import SetupError

HOST = "127.0.0.1"
_FIRST, _LAST = 20_000, 31_999  # below those that the system lends to clients, so that none of them is in our way at a restart
_TRIES = 1000
_LISTENING = "0A"
_PROC = Path("/proc")


def choose_port(taken: Collection[int]) -> int:
    """A port that nobody listens on now, and that is not among `taken`."""
    for port in random.sample(range(_FIRST, _LAST + 1), _TRIES):
        if port not in taken and is_free(port):
            return port
    raise SetupError(f"no free port was found between {_FIRST} and {_LAST}")


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has ended, but lingers, is in nobody's way
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on the port, for people: "process 123 (nginx -g ...)", as far as we may know."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in _PROC.iterdir():
        if process.name.isdigit() and sockets & _open_files(process):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({words[:80]})"
    return "another user's process"


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found


def _open_files(process: Path) -> set[str]:
    found = set()
    with suppress(OSError):
        for file in (process / "fd").iterdir():
            with suppress(OSError):  # closed since
                found.add(str(file.readlink()))
    return found
