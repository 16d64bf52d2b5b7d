"""`wq up` as a process that tests may kill: the program a user runs, on a data directory of the test's own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil

START_WITHIN_S = 90.0


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class System:
    """A data directory and, while it runs, the process that serves it."""

    data: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        """Where the gRPC services listen."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts `wq up` and waits until it serves."""
        command = [sys.executable, "-m", "wq", "up", "--data", str(self.data), "--grpc-port", str(self.port)]
        command += ["--http-port", "0", "--no-fleet"]
        with (self.data.parent / "up.log").open("ab") as log:
            self.process = await asyncio.to_thread(subprocess.Popen, command, stdout=log, stderr=log, start_new_session=True)
        deadline = monotonic() + START_WITHIN_S
        while not self._serves():
            if self.process.poll() is not None or monotonic() > deadline:
                raise AssertionError(f"wq up did not start:\n{self.output()[-3000:]}")
            await asyncio.sleep(0.05)  # wait_until: polls for the endpoint file

    def _serves(self) -> bool:
        try:
            content = json.loads((self.data / "endpoint.json").read_text())
        except (OSError, ValueError):
            return False
        return self.process is not None and content["pid"] == self.process.pid

    def output(self) -> str:
        """Everything the runs so far have printed."""
        return (self.data.parent / "up.log").read_text(errors="replace")

    def kill(self, *, database_too: bool = False) -> None:
        """kill -9, without warning."""
        assert self.process is not None
        postgres = self._postmaster() if database_too else None
        self.process.kill()
        self.process.wait()
        if postgres is not None:
            children = postgres.children(recursive=True)
            postgres.kill()
            for process in children:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs([postgres, *children], timeout=20)
        self.process = None

    async def stop(self) -> int:
        """Ctrl-C; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        code = await asyncio.to_thread(self.process.wait, 60)
        self.process = None
        return code

    def clean_up(self) -> None:
        """Ends what the test left running."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        postgres = self._postmaster()
        if postgres is not None:
            postgres.send_signal(signal.SIGINT)
            psutil.wait_procs([postgres], timeout=20)

    def _postmaster(self) -> psutil.Process | None:
        files = list((self.data / "postgres").rglob("postmaster.pid"))
        if not files:
            return None
        try:
            process = psutil.Process(int(files[0].read_text().split()[0]))
        except (psutil.NoSuchProcess, ValueError, IndexError):
            return None
        return process if "postgres" in process.name() else None


def as_root() -> bool:
    """Whether PostgreSQL runs as another user here."""
    return os.geteuid() == 0
