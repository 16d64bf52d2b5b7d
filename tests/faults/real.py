"""Real engines and many processes as the deployment of a fault run: `wq engines` and `wq serve`, as users start them."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
from sqlalchemy import make_url

from mesh.adapters.kafka import open_kafka_log
from mesh.adapters.rabbitmq import open_rabbitmq_exchange
from mesh.adapters.s3 import open_s3_objects
from mesh.clock import SystemClock
from mesh.ports import Exchange, Log
from mesh.settings import Settings, read_settings
from tests.faults.links import BrokerProxy
from tests.faults.programs import Program
from tests.flows.process import free_port
from tests.proxy import BreakableProxy
from tests.wq.small_disk import may_mount, small_disk
from wq.engines.engine_set import EngineSet, start, stop
from wq.ground_engines import s3_settings
from wq.migrate import kafka_settings

WQ = (sys.executable, "-m", "wq")
SHARDS = 2
SMALL_DISKS_MB = {"postgres-shard-1": 700, "s3": 400}
ROLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ingest-1", ("ingest", "accept")),
    ("ingest-2", ("ingest", "accept")),
    ("screen-1", ("ingest", "screen", "publish", "silence")),
    ("screen-2", ("ingest", "screen", "publish", "silence")),
    ("record-1", ("query", "record", "count", "sight", "export", "retain")),
    ("record-2", ("query", "record", "count", "sight", "export", "retain")),
    ("query-1", ("query", "answer", "contexts")),
    ("query-2", ("query", "answer", "contexts")),
    ("alert-1", ("alert",)),
    ("alert-2", ("alert",)),
    ("archive-1", ("archive",)),
)


@dataclass(slots=True)
class RealDeployment:
    """`async with` starts it, and ends it with everything that it left."""

    name: str = "engines"
    brokers: int = 3
    partitions: int = 64
    slots: int = 320
    programs: tuple[str, ...] = tuple(name for name, _ in ROLES)
    engines: tuple[str, ...] = ("kafka-1", "rabbitmq", "postgres-shard-0", "postgres-catalog", "s3")
    links: dict[str, tuple[BreakableProxy, ...]] = field(default_factory=dict)
    disks: dict[str, Path] = field(default_factory=dict)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="wq-faults-")))
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _programs: dict[str, Program] = field(default_factory=dict)
    _direct: Settings = field(init=False)

    async def __aenter__(self) -> Self:
        self.folder.chmod(0o711)
        self._stack.callback(shutil.rmtree, self.folder)
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def ingest(self) -> tuple[str, ...]:
        return tuple(proxy.target for proxy in self.links["gateways to ingest"])

    @property
    def query(self) -> tuple[str, ...]:
        return (self._programs["query-1"].target, self._programs["query-2"].target)

    @property
    def alert(self) -> tuple[str, ...]:
        return (self._programs["alert-1"].target, self._programs["alert-2"].target)

    @property
    def catalog_dsn(self) -> str:
        return _dsn(self._direct.catalog_url.get_secret_value(), "")

    @property
    def shard_dsns(self) -> dict[int, str]:
        url = self._direct.catalog_url.get_secret_value()
        return {number: _dsn(url, address) for number, address in enumerate(self._direct.shards)}

    def kill(self, name: str) -> None:
        if name in self._programs:
            self._programs[name].kill()
        else:
            self._set.kill9(name)

    def pause(self, name: str) -> None:
        if name in self._programs:
            self._programs[name].signal(signal.SIGSTOP)
        else:
            self._set.pause(name)

    def resume(self, name: str) -> None:
        if name in self._programs:
            self._programs[name].signal(signal.SIGCONT)
        else:
            self._set.resume(name)

    async def start_again(self, name: str) -> None:
        if name in self._programs:
            await self._programs[name].start()
        else:
            await asyncio.to_thread(self._set.start, name)

    async def restart(self, name: str) -> None:
        await self._programs[name].stop()
        await self._programs[name].start()

    def processes(self) -> dict[str, psutil.Process]:
        return {name: process for name, program in self._programs.items() if (process := program.running()) is not None}

    def output(self) -> str:
        return "".join(f"--- {name}\n{program.output()[-1500:]}" for name, program in self._programs.items())

    async def objects(self, prefix: str) -> AsyncIterator[bytes]:
        with ThreadPoolExecutor(2) as threads:
            async with open_s3_objects(s3_settings(self._direct), threads) as objects:
                async for path in objects.list(prefix):
                    if path.endswith(".parquet"):
                        yield await objects.get(path)

    @asynccontextmanager
    async def log(self) -> AsyncIterator[Log]:
        async with open_kafka_log(kafka_settings(self._direct), SystemClock()) as log:
            yield log

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[Exchange]:
        url = self._direct.rabbitmq_url.get_secret_value()
        async with open_rabbitmq_exchange(url, SystemClock(), queue_type=self._direct.rabbitmq_queue_type) as exchange:
            yield exchange

    def versions(self) -> Mapping[str, str]:
        found = {status.version.rpartition(" ")[::2] for status in self._set.statuses() if status.version}
        return dict(sorted(found))

    @property
    def _set(self) -> EngineSet:
        return EngineSet(self.folder)

    async def _start(self) -> None:
        if may_mount():
            for name, size_mb in SMALL_DISKS_MB.items():
                self.disks[name] = self._stack.enter_context(small_disk(self.folder / name, size_mb))
        self._stack.callback(stop, self.folder, in_order=False)
        await asyncio.to_thread(start, self.folder, self.brokers, SHARDS, fsync=False)
        self._direct = read_settings(self._set.settings_file, {"partitions": self.partitions, "slots": self.slots}, {})
        config = self.folder / "through-proxies.toml"
        config.write_text(await self._through_proxies())
        await _run([*WQ, "migrate", "--config", str(config)])
        environment = {**os.environ, "WQ_ARCHIVE_CHUNK_S": "1", "WQ_SILENCE_GATEWAY_S": "0", "PYTHONFAULTHANDLER": "1"}
        for name, (service, *roles) in ROLES:
            words = [word for role in roles for word in ("--role", role)]
            command = [*WQ, "serve", service, *words, "--config", str(config), "--name", name]
            program = Program(command, free_port(), self.folder / f"{name}.log", self.folder / f"{name}.endpoint", environment)
            self._programs[name] = program
            self._stack.callback(program.clean_up)
        gateways = [BreakableProxy(self._programs[name].port) for name in ("ingest-1", "ingest-2")]
        for proxy in gateways:
            await self._stack.enter_async_context(proxy)
        self.links = {"gateways to ingest": tuple(gateways), **self.links}
        await self._start_programs()

    async def _start_programs(self) -> None:
        """Two at a time: each keeps a core busy for some seconds."""
        limit = asyncio.Semaphore(2)

        async def one(program: Program) -> None:
            async with limit:
                await program.start()

        async with asyncio.TaskGroup() as tasks:
            for program in self._programs.values():
                tasks.create_task(one(program))

    async def _through_proxies(self) -> str:
        """The settings with which programs reach every engine through its proxy."""
        settings = tomllib.loads(self._set.settings_file.read_text()) | {"partitions": self.partitions, "slots": self.slots}
        ports: dict[int, int] = {}
        brokers = [BrokerProxy(int(server.rpartition(":")[2]), ports) for server in settings["kafka_servers"].split(",")]
        for proxy in brokers:
            ports[proxy.target_port] = (await self._stack.enter_async_context(proxy)).port
        self.links["programs to Kafka"] = tuple(brokers)
        self.links["programs to one broker"] = (brokers[0],)
        settings["kafka_servers"] = ",".join(proxy.target for proxy in brokers)
        settings["rabbitmq_url"] = await self._proxied("programs to RabbitMQ", settings["rabbitmq_url"])
        settings["catalog_url"] = await self._proxied("programs to the catalog", settings["catalog_url"])
        settings["shards"] = [
            await self._proxied(f"programs to shard {number}", address) for number, address in enumerate(settings["shards"])
        ]
        settings["s3_endpoint"] = await self._proxied("programs to S3", settings["s3_endpoint"])
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())

    async def _proxied(self, link: str, url: str) -> str:
        port = make_url(url).port
        assert port is not None, link
        proxy = await self._stack.enter_async_context(BreakableProxy(port))
        self.links[link] = (proxy,)
        return url.replace(f":{port}", f":{proxy.port}", 1)


def _dsn(catalog_url: str, address: str) -> str:
    catalog = make_url(catalog_url)
    there = make_url(address) if address else catalog
    return catalog.set(host=there.host, port=there.port, database=there.database).render_as_string(hide_password=False)


async def _run(command: list[str]) -> None:
    """Raises AssertionError with what it said when it fails."""
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
