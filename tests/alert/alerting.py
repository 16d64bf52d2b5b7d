"""Alerts for tests: a catalog database with their tables, an Exchange, tasks by hand, and how to look at what came of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc.outbox import create_outbox
from alert_svc.raise_alert import RaiseAlert
from alert_svc.rule_tables import create_rule_tables
from alert_svc.tables import create_tables
from mesh.adapters.postgres_exchange import PostgresExchange, open_postgres_exchange
from mesh.clock import SystemClock
from mesh.codec.tasks import Task, write_task
from mesh.ports import Clock, Priority
from mesh.shards import open_engine, transaction
from mesh.stages import Progress
from tests.builders import START_US
from water.condition import Change, Condition, Evidence, Kind

FreshDatabase = Callable[[], Awaitable[str]]
MINUTE_US = 60_000_000
PH = Evidence(1, 6.9, 7.5, 4.0, "rate")
RULE = "a-rule"

# What two histories of the same tasks must agree in: everything but ids, how often it changed, and when that was stored.
FINAL = """
SELECT sensor_id, timestamp, contaminant_type, severity_level, resolved, state, kind, rule_id, condition_id, site_id, region,
    gateway_id, last_seen, cleared, historical, evidence, newest_us, strength
FROM alert.contamination_alerts ORDER BY condition_id, timestamp, historical
"""


def a_task(change: Change = Change.RAISED, began: int = 0, seen: int | None = None, **more: Any) -> Task:
    """Of a condition whose episodes began so many minutes after START_US; `seen`: minutes after its begin, 0 unless given. A
    CLEARED one ended then."""
    seen_us = START_US + (began + (seen or 0)) * MINUTE_US
    condition = Condition(
        condition_id=more.pop("condition_id", "contamination/7"),
        began_us=START_US + began * MINUTE_US,
        ended_us=seen_us if change == Change.CLEARED else None,
        change=change,
        sensor_id=7,
        site_id="plant-1",
        kind=more.pop("kind", Kind.CONTAMINATION),
        rule_id=more.pop("rule_id", "two-rates"),
        severity_level=more.pop("severity", 3),
        measured_us=seen_us,
        evidence=more.pop("evidence", (PH,)),
    )
    task = Task(condition, "gateway-1", "north", seen_us + 1_000_000, more.pop("historical", False))
    return replace(task, condition=replace(condition, **more))


def a_limit(change: Change = Change.RAISED, began: int = 0, seen: int | None = None, **more: Any) -> Task:
    """Of a condition of RULE."""
    return a_task(change, began, seen, **({"condition_id": "limit/7", "kind": Kind.LIMIT, "rule_id": RULE} | more))


@dataclass(slots=True)
class Alerting:
    """What the workers of alert_svc stand on."""

    catalog: AsyncEngine
    exchange: PostgresExchange
    url: str
    clock: Clock

    def worker(self, progress: Progress | None = None) -> RaiseAlert:
        return RaiseAlert(self.exchange, self.catalog, progress or Progress("raise_alert"), self.clock)

    async def take(self, *tasks: Task) -> None:
        """One transaction for each, in this order."""
        worker = self.worker()
        for task in tasks:
            await worker.take([task])

    async def publish(self, *tasks: Task) -> None:
        for task in tasks:
            await self.exchange.publish(Priority.HIGH, write_task(task), task.condition.severity_level)

    async def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        async with transaction(self.catalog) as connection:
            return [tuple(row) for row in await connection.execute(text(statement), values)]

    async def states(self) -> list[int]:
        """Of all alerts, by id."""
        return [state for (state,) in await self.rows("SELECT state FROM alert.contamination_alerts ORDER BY alert_id")]

    async def one(self, column: str) -> Any:
        """A column of the only alert."""
        ((value,),) = await self.rows(f"SELECT {column} FROM alert.contamination_alerts")
        return value

    async def notices(self) -> list[tuple[int, int]]:
        """(alert, change) of what is in the outbox, in its order."""
        return [
            (alert, change) for alert, change in await self.rows("SELECT alert_id, change FROM alert.outbox ORDER BY notice_id")
        ]

    async def steps(self) -> list[tuple[int, int, str]]:
        """(from, to, comment) of everything that happened."""
        statement = "SELECT from_state, to_state, comment FROM alert.alert_events ORDER BY event_id"
        return [(before, after, comment) for before, after, comment in await self.rows(statement)]

    async def run(self, statement: str, **values: Any) -> None:
        async with transaction(self.catalog) as connection:
            await connection.execute(text(statement), values)

    async def put_rule(self, rule_id: str = RULE) -> None:
        """In force from now on."""
        await self.run(_PUT_RULE, rule_id=rule_id)

    async def forget(self) -> None:
        """No alert was ever raised."""
        tables = ("contamination_alerts", "episodes", "alert_events", "outbox", "deliveries", "dropped_tasks")
        await self.run(f"TRUNCATE {', '.join(f'alert.{table}' for table in tables)} RESTART IDENTITY CASCADE")


@asynccontextmanager
async def alerting(fresh_database: FreshDatabase, clock: Clock | None = None, attempt_limit: int = 5) -> AsyncIterator[Alerting]:
    """New tables, and nothing in them but the default rules."""
    url = await fresh_database()
    clock = clock or SystemClock()
    catalog = open_engine(url, 6)
    try:
        await create_everything(catalog)
        async with open_postgres_exchange(url, clock, attempt_limit=attempt_limit) as exchange:
            yield Alerting(catalog, exchange, url, clock)
    finally:
        await catalog.dispose()


async def create_everything(catalog: AsyncEngine) -> None:
    """The tables of alerts, rules and notices."""
    await create_tables(catalog)
    await create_rule_tables(catalog)
    await create_outbox(catalog)


_PUT_RULE = """
INSERT INTO alert.rules (rule_id, parameter, statistic, deadband, on_delay_s, off_delay_s, severity_level, sensor_ids, site_ids,
    regions, source_type, citation, disabled, version, effective_us)
VALUES (:rule_id, 1, 1, 0, 0, 0, 3, '{}', '{}', '{}', 0, '', false, 1, 0)
ON CONFLICT (rule_id) DO UPDATE SET disabled = false
"""
