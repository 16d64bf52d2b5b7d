"""`wq bench alarm`: from a measurement to its committed alert, on an idle system and beside a steady stream of readings."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from waterquality.v1 import alert_pb2, alert_pb2_grpc, reading_pb2, rule_pb2, rule_pb2_grpc

from mesh.adapters.embedded_postgres import find_server
from mesh.codec.times import read_time
from mesh.errors import Fault
from mesh.gateway import Gateway, GatewaySettings
from mesh.topics import partition_of
from water.parameter import PARAMETERS
from water.readings import Readings
from wq.bench.server import Server, running_server
from wq.connect import open_aio_channel

RULE = "bench-alarm"
REGION, PROBE_REGION = "bench", "bench-probe"
LIMIT_NTU, PROBE_NTU = 100.0, 500.0
FIRST_PROBE = 1_000_000_000
BATCH = 1000
REPORT_EVERY_S = 10.0
RULE_WITHIN_S = 30.0
SETTLE_S = 10.0
LAST_ALERT_S = 5.0
REFERENCE_COMMITS = 200
GOAL_MS = 150.0
PARTITIONS = 4  # of the embedded default


@dataclass(frozen=True, slots=True)
class Watch:
    """What is sent: `readings_per_s` as a background, of sensors that report every 10 s; `probes` readings that break a limit,
    each of a sensor of its own, evenly over `seconds`; before that `idle_probes` on the idle system."""

    readings_per_s: int = 20_000
    probes: int = 200
    seconds: float = 40.0
    idle_probes: int = 50
    idle_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Spread:
    """How some spans of time are spread, milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(slots=True)
class Result:
    """`beside_load` and `idle`: from the time stamped on a reading, taken just before it is handed over, to the time at which its
    alert was committed, on one clock. `raw_commit_*`: inserting one row and nothing else into the same PostgreSQL, over a
    connection of its own, in the same spans. `goal_met`: p99 beside the load, which must have been there."""

    bench: str
    readings_per_s: int
    acknowledged_per_s: float
    probes: int
    beside_load: Spread
    idle: Spread
    raw_commit_beside_load: Spread
    raw_commit_idle: Spread
    mesh_cpu_share: float
    goal_p99_ms: float
    goal_met: bool
    seconds: float


async def bench_alarm(watch: Watch, parent: Path | None = None) -> Result:
    """Measures on a fresh system in a temporary folder, in about `seconds` + `idle_seconds` + 25 s. Raises Fault when the rule
    does not take effect within 30 s or an alert is missing 5 s after its probe."""
    begun = time.perf_counter()
    async with running_server(parent) as server, open_aio_channel(server.target) as channel:
        await _set_rule(rule_pb2_grpc.RuleServiceStub(channel))
        async with _probing(server, alert_pb2_grpc.AlertServiceStub(channel)) as probes:
            await probes.until_the_rule_holds()
            idle, raw_idle = await _measured(server, probes, watch.idle_probes, watch.idle_seconds)
            async with _load(server, watch.readings_per_s) as load:
                await asyncio.sleep(SETTLE_S)
                cpu_s, at_s, acknowledged = server.cpu_s(), time.perf_counter(), load.acknowledged()
                beside, raw_beside = await _measured(server, probes, watch.probes, watch.seconds)
                span_s = time.perf_counter() - at_s
                cpu_share, rate = (server.cpu_s() - cpu_s) / span_s, (load.acknowledged() - acknowledged) / span_s
    spread = _spread(beside)
    return Result(
        bench="alarm",
        readings_per_s=watch.readings_per_s,
        acknowledged_per_s=round(rate),
        probes=watch.probes,
        beside_load=spread,
        idle=_spread(idle),
        raw_commit_beside_load=_spread(raw_beside),
        raw_commit_idle=_spread(raw_idle),
        mesh_cpu_share=round(cpu_share, 3),
        goal_p99_ms=GOAL_MS,
        goal_met=spread.p99_ms <= GOAL_MS and rate >= 0.95 * watch.readings_per_s,
        seconds=round(time.perf_counter() - begun, 1),
    )


async def _set_rule(rules: "rule_pb2_grpc.RuleServiceAsyncStub") -> None:
    rule = rule_pb2.Rule(
        rule_id=RULE,
        parameter=reading_pb2.PARAMETER_TURBIDITY,
        statistic=rule_pb2.STATISTIC_VALUE,
        upper_limit=LIMIT_NTU,
        severity_level=3,
        regions=[PROBE_REGION],
        citation="wq bench alarm",
    )
    await rules.SetRule(rule_pb2.SetRuleRequest(rule=rule), timeout=30)


@dataclass(slots=True)
class _Probes:
    """Sends probes by one gateway on each partition of the Log, so that all of them are waited for, and hears their alerts."""

    gateways: list[Gateway]
    latency_ms: dict[int, float] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: "count[int]" = field(default_factory=lambda: count(FIRST_PROBE))

    async def send(self) -> int:
        """A reading above the limit, measured now, of a sensor that was never heard before; the sensor."""
        sensor = next(self.numbers)
        values = np.full((len(PARAMETERS), 1), np.nan, np.float32)
        values[reading_pb2.PARAMETER_TURBIDITY - 1] = PROBE_NTU
        measured_at_us = np.array([time.time_ns() // 1000], np.int64)
        await self.gateways[sensor % len(self.gateways)].send(Readings(np.array([sensor], np.int64), measured_at_us, values))
        return sensor

    async def hear(self, alerts: "alert_pb2_grpc.AlertServiceAsyncStub") -> None:
        """Until cancelled, notes when the alert of each probe was committed."""
        request = alert_pb2.WatchAlertsRequest(filter=alert_pb2.AlertFilter(regions=[PROBE_REGION]))
        call = alerts.WatchAlerts(request)
        try:
            async for answer in call:
                alert = answer.alert
                raised_us, committed_us = read_time(alert, "raised_time", ""), read_time(alert, "committed_time", "")
                if alert.rule_id == RULE and raised_us is not None and committed_us is not None:
                    self.latency_ms.setdefault(alert.sensor_id, (committed_us - raised_us) / 1000)
                    self.news.set()
        finally:
            call.cancel()

    async def until_the_rule_holds(self) -> None:
        """Every partition has raised an alert: the rule is in force everywhere and everything is warm."""
        deadline = time.monotonic() + RULE_WITHIN_S
        while time.monotonic() < deadline:
            sent = {await self.send() for _ in self.gateways}
            await asyncio.sleep(0.5)
            if sent <= self.latency_ms.keys():
                return
        raise Fault(f"a rule that was set raised no alert of every gateway within {RULE_WITHIN_S:g} s")

    async def heard(self, sensors: Iterable[int]) -> list[float]:
        """The latencies of these probes; waits up to 5 s for the last ones and raises Fault when one is still missing."""
        wanted = set(sensors)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_ALERT_S):
                while wanted - self.latency_ms.keys():
                    self.news.clear()
                    await self.news.wait()
        if missing := sorted(wanted - self.latency_ms.keys()):
            raise Fault(
                f"{len(missing)} of {len(wanted)} probes raised no alert within {LAST_ALERT_S:g} s, sensor {missing[0]} first"
            )
        return [self.latency_ms[sensor] for sensor in sorted(wanted)]


@asynccontextmanager
async def _probing(server: Server, alerts: "alert_pb2_grpc.AlertServiceAsyncStub") -> AsyncIterator[_Probes]:
    async with AsyncExitStack() as stack:
        probes = _Probes([await stack.enter_async_context(gateway) for gateway in _gateways(server, PROBE_REGION, 1)])
        async with _beside([probes.hear(alerts)]):
            yield probes


async def _measured(server: Server, probes: _Probes, number: int, seconds: float) -> tuple[list[float], list[float]]:
    """Latencies of that many probes over that time, and of raw commits beside them."""
    committing = asyncio.create_task(_raw_commits(server, seconds))
    begun = time.monotonic()
    sent: list[int] = []
    try:
        for index in range(number):
            await asyncio.sleep(max(0.0, begun + index * seconds / number - time.monotonic()))
            sent.append(await probes.send())
        return await probes.heard(sent), await committing
    finally:
        committing.cancel()
        await asyncio.gather(committing, return_exceptions=True)


async def _raw_commits(server: Server, seconds: float) -> list[float]:
    """Milliseconds of single-row transactions, evenly over that time: as durable as the settings say, as an alert's is."""
    spans_ms = []
    dsn = find_server(server.data / "postgres").dsn("postgres")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS reference (number bigint)")
        for number in range(REFERENCE_COMMITS):
            begun = time.perf_counter()
            await connection.execute("INSERT INTO reference VALUES (%s)", (number,))
            spans_ms.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(max(0.0, seconds / REFERENCE_COMMITS - spans_ms[-1] / 1000))
    return spans_ms


@dataclass(slots=True)
class _Load:
    gateways: list[Gateway]

    def acknowledged(self) -> int:
        """Readings that are durable so far."""
        return sum(gateway.statistics.live.acknowledged for gateway in self.gateways)


@asynccontextmanager
async def _load(server: Server, readings_per_s: int) -> AsyncIterator[_Load]:
    """Streams that many readings a second by one gateway on each partition while the block runs; raises what stopped one."""
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(gateway) for gateway in _gateways(server, REGION, BATCH)]
        share = readings_per_s / len(gateways)
        async with _beside([_stream(gateway, number, share) for number, gateway in enumerate(gateways)]):
            yield _Load(gateways)


@asynccontextmanager
async def _beside(work: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs all of them beside the block and cancels them at its end; raises what stopped one before."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        stopped = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in stopped:
        task.result()


async def _stream(gateway: Gateway, number: int, readings_per_s: float) -> None:
    """Batches of usual values, measured just now, of sensors that take turns; evenly, and later ones sooner when one was late."""
    sensors = max(BATCH, round(readings_per_s * REPORT_EVERY_S))
    chance = np.random.default_rng(number)
    typical = np.array([7.4, 3.0, 14.0, 9.0, 420.0, 0.4, 650.0, 1200.0])[:, None]
    grid = np.array([parameter.resolution for parameter in PARAMETERS])[:, None]
    begun = time.monotonic() - number / 4 * BATCH / readings_per_s  # gateways are not in step
    for index in count(1):
        await asyncio.sleep(max(0.0, begun + index * BATCH / readings_per_s - time.monotonic()))
        wander = 1 + 0.002 * chance.standard_normal((len(PARAMETERS), BATCH))
        sensor_id = 1 + number * sensors + (index * BATCH + np.arange(BATCH)) % sensors
        measured_at_us = np.full(BATCH, time.time_ns() // 1000, np.int64)
        values = (np.round(typical * wander / grid) * grid).astype(np.float32)
        await gateway.send(Readings(sensor_id.astype(np.int64), measured_at_us, values))


def _gateways(server: Server, region: str, batch: int) -> list[Gateway]:
    """One for each partition of the embedded default."""
    names: dict[int, str] = {}
    for number in count(1):
        names.setdefault(partition_of(region, f"{region}-{number}", PARTITIONS), f"{region}-{number}")
        if len(names) == PARTITIONS:
            break
    return [Gateway(GatewaySettings(server.target, name, region, batch, max_batch_age_s=0.05)) for name in names.values()]


def _spread(spans_ms: list[float]) -> Spread:
    """Percentiles as measured values (the nearest rank above), none made up between two."""
    found = np.percentile(np.array(spans_ms), [50, 95, 99, 100], method="higher")
    return Spread(len(spans_ms), *(round(float(value), 2) for value in found))
