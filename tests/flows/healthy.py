"""A gateway that does everything right beside those that do not, and what must still be true of the system afterwards."""

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import grpc
import psutil
from waterquality.v1 import query_pb2, query_pb2_grpc

from mesh.gateway import Gateway, GatewaySettings
from tests.builders import START_US, some_readings
from tests.flows.accounts import Account, account_of
from tests.flows.process import System, eventually
from tests.flows.reading_back import settled_ledger

EVERY_S = 0.05
BATCH = 100
SENSORS = 10
PERIOD_US = 10_000_000
WITHIN_S = 20.0
GROWTH_LIMIT_BYTES = 320 * 2**20
_NUMBERS = count(1)
_FAULTS = re.compile(r"Traceback|handler failed|worker crashed|worker ended|Unexpected \[|never awaited")


@dataclass(slots=True)
class Healthy:
    """The gateway, the process that it streams to, and what it has handed over."""

    gateway: Gateway
    process: psutil.Process
    metrics_address: str
    sent: int = 0

    @property
    def acknowledged(self) -> int:
        """Readings so far."""
        return self.gateway.statistics.acknowledged

    def rss_bytes(self) -> int:
        """Resident memory of the server's process now."""
        return int(self.process.memory_info().rss)

    async def streams(self, wanted: int) -> None:
        """Waits until so many gateway streams are open, as the metrics page says."""
        async with asyncio.timeout(WITHIN_S):
            while f"\nwq_streams_open {wanted:.1f}\n" not in await asyncio.to_thread(self._metrics):
                pass

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=20) as page:
            return str(page.read().decode())

    async def stream(self, first_sensor: int) -> None:
        """Hands over batch after batch until cancelled; no natural key comes twice."""
        ids = range(first_sensor, first_sensor + SENSORS)
        for number in count():
            batch = some_readings(BATCH, ids, start=START_US + number * BATCH // SENSORS * PERIOD_US)
            self.sent += len(batch)
            await self.gateway.send(batch)
            await asyncio.sleep(EVERY_S)  # not waited for: the pace of a gateway

    async def goes_on(self, before: int) -> None:
        """More than before is acknowledged soon, still on the first stream; nothing was refused."""
        await eventually(lambda: self.acknowledged > before, WITHIN_S, lambda: f"only {self.acknowledged} acknowledged")
        statistics = self.gateway.statistics
        assert (statistics.reconnects, statistics.last_error, statistics.refused) == (0, "", {})


@asynccontextmanager
async def healthy_gateway(system: System) -> AsyncIterator[Healthy]:
    """It streams inside the block. After it: nothing it sent is missing, the ledger balances, every stage is well, the log of the
    process tells of no fault, and the process has not grown much."""
    assert system.process is not None
    number = next(_NUMBERS)
    gateway_id = f"healthy-{number}"
    settings = GatewaySettings(system.target, gateway_id, "spring", max_batch_readings=BATCH, ack_timeout_s=WITHIN_S)
    async with Gateway(settings) as gateway:
        metrics = json.loads((system.data / "endpoint.json").read_text())["http"]
        healthy = Healthy(gateway, psutil.Process(system.process.pid), metrics)
        streaming = asyncio.create_task(healthy.stream(9_000_000 + number * SENSORS))
        try:
            await healthy.goes_on(before=10 * BATCH)
            before = healthy.rss_bytes()
            yield healthy
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
        await gateway.flush(WITHIN_S)
        assert (healthy.acknowledged, gateway.statistics.reconnects) == (healthy.sent, 0)
    assert await account_of(system.target, gateway_id) == Account(accepted=healthy.sent, stored=healthy.sent)
    await assert_unharmed(system)
    grown = healthy.rss_bytes() - before
    assert grown < GROWTH_LIMIT_BYTES, f"the server grew by {grown / 2**20:.0f} MiB from {before / 2**20:.0f} MiB"


async def assert_unharmed(system: System) -> None:
    """The whole ledger balances, no stage has a problem, and the process told of no fault."""
    await settled_ledger(system.target)
    async with grpc.aio.insecure_channel(system.target) as channel:
        status = await query_pb2_grpc.QueryServiceStub(channel).GetPipelineStatus(
            query_pb2.GetPipelineStatusRequest(), timeout=WITHIN_S
        )
    assert not {stage.stage: stage.problem for stage in status.stages if stage.problem}
    fault = _FAULTS.search(system.output())
    assert fault is None, system.output()[fault.start() - 500 :][:3000]
