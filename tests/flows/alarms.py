"""The alarm side of a running system: its sites and rules, what alerts came of what was sent, and an eye on it meanwhile."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import grpc
import psycopg
from waterquality.v1 import alert_pb2, alert_pb2_grpc, catalog_pb2, catalog_pb2_grpc

from tests.flows.grounds import OnEngines
from tests.flows.process import System

PATIENCE_S = 300.0
RESOLVED = alert_pb2.ALERT_STATE_RESOLVED
Rows = list[tuple[Any, ...]]


async def describe(system: System, region: str, source_of: Mapping[int, catalog_pb2.SourceType.ValueType]) -> None:
    """A site of its own kind of water for each sensor, so that the default rules hold for it; screening knows of all of them on
    return."""
    async with grpc.aio.insecure_channel(system.target) as channel:
        catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        for sensor_id, source_type in source_of.items():
            site = catalog_pb2.Site(site_id=f"site-{sensor_id}", name=f"Site {sensor_id}", region=region, source_type=source_type)
            await catalog.CreateSite(catalog_pb2.CreateSiteRequest(site=site), timeout=30)
            sensor = catalog_pb2.Sensor(sensor_id=sensor_id, site_id=site.site_id)
            await catalog.CreateSensor(catalog_pb2.CreateSensorRequest(sensor=sensor), timeout=30)
    await _none_of(system, "SELECT 1 FROM catalog.version WHERE published < newest")


async def ask(system: System, query: str) -> Rows:
    """Rows of the catalog database."""
    dsn = system.dsn("catalog")
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def alarms_at_rest(system: System) -> tuple[Rows, Rows]:
    """(episodes, alerts) once every condition that was screened is in them and everything is notified; without what two runs may
    differ in: ids and times of ours."""
    await _none_of(system, _UNPUBLISHED)
    if system.ground is None:
        await _none_of(system, _UNTAKEN)
    else:
        await _no_tasks(system.ground)
    await _none_of(system, _WAITING)
    return await ask(system, _EPISODES), await ask(system, _ALERTS)


async def _none_of(system: System, query: str) -> None:
    """Waits until the query finds nothing any more."""
    deadline = monotonic() + PATIENCE_S
    while found := await ask(system, query):
        assert monotonic() < deadline, f"{len(found)} rows are left of {query}"
        await asyncio.sleep(0.1)


async def _no_tasks(ground: OnEngines) -> None:
    """Waits until no condition is on the Exchange any more, taken or not."""
    deadline = monotonic() + PATIENCE_S
    while waiting := await asyncio.to_thread(ground.tasks_waiting):
        assert monotonic() < deadline, f"{waiting} tasks are left"


_UNPUBLISHED = """
SELECT 1 FROM positions r JOIN positions p USING (topic, partition, log_id)
WHERE r.stage = 'sight' AND p.stage = 'publish' AND p."offset" < r."offset"
"""
_UNTAKEN = "SELECT 1 FROM exchange.tasks WHERE priority = 1"
_WAITING = """
SELECT 1 FROM alert.outbox WHERE opened_us IS NULL
UNION ALL SELECT 1 FROM alert.deliveries WHERE status = 'waiting'
"""
_EPISODES = "SELECT condition_id, began_us, ended_us, historical FROM alert.episodes ORDER BY 1, 2"
_ALERTS = """
SELECT condition_id, timestamp, severity_level, state, kind, rule_id, contaminant_type, sensor_id, site_id, region, gateway_id,
       last_seen, cleared, historical, evidence::text
FROM alert.contamination_alerts ORDER BY 1, 2
"""


@dataclass(slots=True)
class Eye:
    """What a watcher saw: the state of every alert by its condition. `breaches`: when a condition had two open alerts."""

    states: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    breaches: list[str] = field(default_factory=list)
    seen: int = 0

    def look(self, alert: alert_pb2.Alert) -> None:
        if alert.historical:
            return
        self.seen += 1
        alerts = self.states[alert.condition_id]
        alerts[alert.alert_id] = alert.state
        if sum(state != RESOLVED for state in alerts.values()) > 1:
            self.breaches.append(f"{alert.condition_id}: {dict(alerts)}")


@asynccontextmanager
async def watched(target: str) -> AsyncIterator[Eye]:
    """Watches alerts while the block runs, through every restart of the system."""
    eye = Eye()

    async def watch() -> None:
        while True:
            async with grpc.aio.insecure_channel(target) as channel:
                stub = alert_pb2_grpc.AlertServiceStub(channel)
                with suppress(grpc.aio.AioRpcError):
                    states = alert_pb2.AlertState.values()[1:]
                    request = alert_pb2.WatchAlertsRequest(filter=alert_pb2.AlertFilter(states=states))
                    async for answer in stub.WatchAlerts(request):
                        eye.look(answer.alert)
            await asyncio.sleep(0.2)  # the system is being restarted

    task = asyncio.create_task(watch())
    try:
        yield eye
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
