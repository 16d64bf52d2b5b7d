"""`wq up` as the deployment of a fault run: one process, its own PostgreSQL, everything on one small disk where that can be."""

import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.embedded_postgres import EmbeddedPostgres, find_server
from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import SystemClock
from mesh.ports import Exchange, Log
from tests.engines import reachable_folder
from tests.flows.process import System, eventually, free_port
from tests.proxy import BreakableProxy
from tests.wq.small_disk import may_mount, small_disk

PARTITIONS = 4
DISK_MB = 2_000
STARTED_WITHIN_S = 60.0


@dataclass(slots=True)
class EmbeddedDeployment:
    """`async with` starts it, and ends it with everything that it left."""

    name: str = "wq up"
    programs: tuple[str, ...] = ("up",)
    engines: tuple[str, ...] = ("postgres",)
    links: dict[str, tuple[BreakableProxy, ...]] = field(default_factory=dict)
    disks: dict[str, Path] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _system: System = field(init=False)

    async def __aenter__(self) -> Self:
        folder = self._stack.enter_context(reachable_folder())
        self._system = System(folder / "data", free_port(), environment={"WQ_SILENCE_GATEWAY_S": "0"})
        if may_mount():
            self.disks["data"] = self._stack.enter_context(small_disk(self._system.data, DISK_MB))
        self._stack.callback(self._system.clean_up)
        gateways = await self._stack.enter_async_context(BreakableProxy(self._system.port))
        self.links["gateways to ingest"] = (gateways,)
        await self._system.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def ingest(self) -> tuple[str, ...]:
        return (self.links["gateways to ingest"][0].target,)

    @property
    def query(self) -> tuple[str, ...]:
        return (self._system.target,)

    @property
    def alert(self) -> tuple[str, ...]:
        return (self._system.target,)

    @property
    def catalog_dsn(self) -> str:
        return self._server().dsn("catalog")

    @property
    def shard_dsns(self) -> dict[int, str]:
        return {number: self._server().dsn(f"shard_{number}") for number in range(2)}

    def kill(self, name: str) -> None:
        if name == "up":
            self._system.kill()
        else:
            self._signal(name, signal.SIGKILL)

    def pause(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)

    async def start_again(self, name: str) -> None:
        if name == "up":
            await self._system.start()
        else:  # the program looks after its PostgreSQL by itself
            await eventually(lambda: self._system.postmaster() is not None, STARTED_WITHIN_S, self.output)

    async def restart(self, name: str) -> None:
        assert name == "up", f"{name} is not restarted by hand"
        code = await self._system.stop()
        assert code == 0, f"stopped with {code}:\n{self.output()[-3000:]}"
        await self._system.start()

    def processes(self) -> dict[str, psutil.Process]:
        process = self._system.process
        return {"up": psutil.Process(process.pid)} if process is not None and process.poll() is None else {}

    def output(self) -> str:
        return self._system.output()

    @property
    def objects_folder(self) -> Path:
        """Where the archive's objects lie."""
        return self._system.data / "objects"

    async def objects(self, prefix: str) -> AsyncIterator[bytes]:
        objects = DirectoryObjects(self.objects_folder)
        async for path in objects.list(prefix):
            if path.endswith(".parquet"):
                yield await objects.get(path)

    def log(self) -> AbstractAsyncContextManager[Log]:
        return open_postgres_log(self._server().url("catalog"), PARTITIONS, SystemClock())

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[Exchange]:
        async with open_postgres_exchange(self._server().url("catalog"), SystemClock()) as exchange:
            yield exchange

    def versions(self) -> Mapping[str, str]:
        return {"PostgreSQL": (self._system.data / "postgres" / "data" / "PG_VERSION").read_text().strip()}

    def _server(self) -> EmbeddedPostgres:
        return find_server(self._system.data / "postgres")

    def _signal(self, name: str, number: signal.Signals) -> None:
        """To a process and all of its children: those of PostgreSQL do the work."""
        first = self._system.postmaster() if name == "postgres" else self.processes()["up"]
        assert first is not None, f"{name} does not run"
        for process in [first, *first.children(recursive=True)] if name == "postgres" else [first]:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
