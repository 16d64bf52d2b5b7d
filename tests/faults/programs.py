"""One program of ours as a process that is killed, paused and started again at the same address."""

import asyncio
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.flows.process import eventually

STARTED_WITHIN_S = 120.0
STOPPED_WITHIN_S = 60.0


@dataclass(slots=True)
class Program:
    """`wq serve ..` on a port of its own; it writes `endpoint` once it serves."""

    command: Sequence[str]
    port: int
    log: Path
    endpoint: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        """Where its gRPC services listen."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """It serves on return."""
        self.endpoint.unlink(missing_ok=True)
        command = [*self.command, "--grpc-port", str(self.port), "--endpoint", str(self.endpoint)]
        with self.log.open("ab") as log:
            process = await asyncio.to_thread(
                subprocess.Popen, command, stdout=log, stderr=log, start_new_session=True, env=self.environment
            )
        self.process = process
        await eventually(lambda: process.poll() is not None or self.endpoint.exists(), STARTED_WITHIN_S, self._where_it_hangs)
        assert process.poll() is None, f"{' '.join(command)} did not start:\n{self._end()}"

    async def stop(self) -> None:
        """SIGTERM; it has ended in order on return."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, STOPPED_WITHIN_S)
        assert code == 0, f"ended with {code}:\n{self._end()}"

    def kill(self) -> None:
        """kill -9; gone on return."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP or SIGCONT."""
        assert self.process is not None
        self.process.send_signal(number)

    def running(self) -> psutil.Process | None:
        """None: it has ended."""
        return psutil.Process(self.process.pid) if self.process is not None and self.process.poll() is None else None

    def output(self) -> str:
        """What all its lives have said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def clean_up(self) -> None:
        """Ends what is left."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def _where_it_hangs(self) -> str:
        """With the stacks of its threads (PYTHONFAULTHANDLER)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGABRT)
        self.process.wait(10)
        return f"not started:\n{self._end()}"

    def _end(self) -> str:
        return self.output()[-3000:]
