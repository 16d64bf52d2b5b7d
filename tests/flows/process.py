"""`wq up` as a process that tests may kill: the program a user runs, on a data directory of the test's own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import psutil

from mesh.adapters.embedded_postgres import find_server
from tests.flows.grounds import OnEngines

START_WITHIN_S = 90.0
STOP_WITHIN_S = 60.0


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(holds: Callable[[], object], within_s: float, what: Callable[[], str]) -> None:
    """Waits until it holds; after that time it fails with what is there instead."""
    deadline = monotonic() + within_s
    while not holds():
        assert monotonic() < deadline, what()
        await asyncio.sleep(0.02)


@dataclass(slots=True)
class System:
    """A data directory and, while it runs, the process that serves it. `prefix`: words before the command, as for another user;
    `words`: the flags of `wq up` beside the data directory and the ports; `ground`: real engines that it stands on."""

    data: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    words: tuple[str, ...] = ("--no-fleet",)
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    ground: OnEngines | None = None

    @property
    def objects(self) -> Path:
        """Where its objects lie as files."""
        return self.ground.objects if self.ground else self.data / "objects"

    def dsn(self, database: str) -> str:
        """For psycopg and psql: of `catalog`, `shard_0` or `shard_1`."""
        return self.ground.dsn(database) if self.ground else find_server(self.data / "postgres").dsn(database)

    @property
    def target(self) -> str:
        """Where the gRPC services listen."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the runs so far have printed."""
        return self.data.parent / "up.log"

    async def start(self) -> None:
        """Starts `wq up` and waits until it serves."""
        process = await self.launch()
        await eventually(
            lambda: process.poll() is not None or self._serves(), START_WITHIN_S, lambda: f"not started:\n{self.output()[-3000:]}"
        )
        assert process.poll() is None, f"wq up did not start:\n{self.output()[-3000:]}"

    async def launch(self) -> subprocess.Popen[bytes]:
        """Starts `wq up` and waits for nothing."""
        command = [*self.prefix, sys.executable, "-m", "wq", "up", "--data", str(self.data), "--grpc-port", str(self.port)]
        command += ["--http-port", "0", "--web-port", "0", *self.words]
        command += ["--config", str(self.ground.file)] if self.ground else []
        with self.log.open("ab") as log:
            environment = {**os.environ, "WQ_ARCHIVE_CHUNK_S": "1", **self.environment}
            process = await asyncio.to_thread(
                subprocess.Popen, command, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        self.process = process
        return process

    async def refused(self) -> str:
        """Starts `wq up`, which must end with exit code 1 and one line; the line."""
        before = len(self.output())
        process = await self.launch()
        code = await asyncio.to_thread(process.wait, START_WITHIN_S)
        self.process = None
        said = self.output()[before:]
        assert code == 1, said
        assert "Traceback" not in said, said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        return errors[0]

    def _serves(self) -> bool:
        try:
            content = json.loads((self.data / "endpoint.json").read_text())
        except (OSError, ValueError):
            return False
        return self.process is not None and content["pid"] == self.process.pid

    def output(self) -> str:
        """Everything the runs so far have printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    async def says(self, text: str, within_s: float = 30.0, after: int = 0) -> None:
        """Waits until the output has the text, beyond its first `after` characters."""
        await eventually(lambda: text in self.output()[after:], within_s, lambda: f"no {text!r} in:\n{self.output()[-3000:]}")

    def kill(self, *, database_too: bool = False) -> None:
        """kill -9, without warning."""
        assert self.process is not None
        postgres = self.postmaster() if database_too else None
        self.process.kill()
        self.process.wait()
        if database_too and self.ground:
            self.ground.kill_databases()
        if postgres is not None:
            children = postgres.children(recursive=True)
            postgres.kill()
            for process in children:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs([postgres, *children], timeout=20)
        self.process = None

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ctrl-C, or another signal; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        code = await asyncio.to_thread(self.process.wait, STOP_WITHIN_S)
        self.process = None
        return code

    def clean_up(self) -> None:
        """Ends what the test left running."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        postgres = self.postmaster()
        if postgres is not None:
            postgres.send_signal(signal.SIGINT)
            psutil.wait_procs([postgres], timeout=20)

    def postmaster(self) -> psutil.Process | None:
        """The first process of the database, if it is alive."""
        try:
            process = psutil.Process(int((self.data / "postgres" / "data" / "postmaster.pid").read_text().split()[0]))
            is_postgres = "postgres" in process.name() and process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, psutil.NoSuchProcess, ValueError, IndexError):  # a server that stops takes its file away
            return None
        return process if is_postgres else None


def as_root() -> bool:
    """Whether PostgreSQL runs as another user here."""
    return os.geteuid() == 0
