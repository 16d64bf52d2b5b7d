"""A `wq up` of its own for a benchmark: in a temporary data directory, as a process of its own, ended afterwards."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SetupError

START_WITHIN_S = 120.0
STOP_WITHIN_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A running system; `pid` is the one process of the mesh, `postgres_pid` its database's first."""

    data: Path
    target: str
    pid: int
    postgres_pid: int

    def rss_bytes(self) -> int:
        """Resident memory of the mesh's process now."""
        pages = int((Path("/proc") / str(self.pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """Processor seconds of the mesh's process so far."""
        return _cpu_s(self.pid)

    def postgres_cpu_s(self) -> float:
        """Processor seconds of the database's processes that are alive now, and of those that ended."""
        children = (Path("/proc") / str(self.postgres_pid) / "task" / str(self.postgres_pid) / "children").read_text().split()
        return _cpu_s(self.postgres_pid, ended=True) + sum(_cpu_s(int(child)) for child in children)


@asynccontextmanager
async def running_server(parent: Path | None = None) -> AsyncIterator[Server]:
    """Starts it without a fleet on free ports and removes its data afterwards. Raises SetupError when it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="wq-bench-", dir=parent))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to enter it
    data = folder / "data"
    command = [sys.executable, "-m", "wq", "up", "--data", str(data), "--no-fleet", "--grpc-port", "0", "--http-port", "0"]
    command += ["--web-port", "0"]
    output = folder / "output.txt"
    try:
        with output.open("wb") as file:
            process = await asyncio.to_thread(subprocess.Popen, command, stdout=file, stderr=file, start_new_session=True)
        try:
            yield await _started(process, data, output)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                await asyncio.to_thread(process.wait, STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _started(process: subprocess.Popen[bytes], data: Path, output: Path) -> Server:
    deadline = time.monotonic() + START_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            endpoint = json.loads((data / "endpoint.json").read_text())
            postgres = int(next((data / "postgres").rglob("postmaster.pid")).read_text().split()[0])
            return Server(data, endpoint["grpc"], process.pid, postgres)
        except (OSError, ValueError, StopIteration):
            await asyncio.sleep(0.05)
    raise SetupError(f"the system did not start:\n{output.read_text()[-2000:]}")


def _cpu_s(pid: int, *, ended: bool = False) -> float:
    """utime and stime, with those of its ended children if asked: proc(5)."""
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11 : 15 if ended else 13]) / _TICKS
