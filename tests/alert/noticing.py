"""Alerts as the outbox holds them, workers that take them to channels, and ways to look at what became of them."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from waterquality.v1 import alert_pb2

from alert_svc.channel import Channel, Delivery, NotDelivered
from alert_svc.notify import Notify, Patience
from alert_svc.outbox import Notice, add, create_outbox
from mesh.clock import SystemClock
from mesh.codec.notices import read_notice
from mesh.codec.times import write_time
from mesh.ports import Clock
from mesh.shards import open_engine, transaction
from mesh.stages import Progress
from tests.builders import START_US
from tests.conftest import FreshDatabase
from tests.proxy import BreakableProxy

QUICK = Patience(first_s=0.02, longest_s=0.1)
_STATES = (
    alert_pb2.ALERT_STATE_UNSPECIFIED,
    alert_pb2.ALERT_STATE_UNACKNOWLEDGED,
    alert_pb2.ALERT_STATE_ACKNOWLEDGED,
    alert_pb2.ALERT_STATE_RESOLVED,
)


def a_notice(alert_id: int, change: int = 1, summary: str = "pH 4.1 at the weir") -> Notice:
    """The alert after its change-th change: raised, acknowledged, resolved, then remarks."""
    steps = [
        alert_pb2.AlertEvent(
            time=write_time(START_US + number * 1_000_000),
            actor="ines",
            from_state=_STATES[min(number - 1, 3)],
            to_state=_STATES[min(number, 3)],
            comment="again" if number > 3 else "",
        )
        for number in range(1, change + 1)
    ]
    alert = alert_pb2.Alert(
        alert_id=alert_id,
        sensor_id=4711,
        site_id="weir-1",
        region="north",
        kind=alert_pb2.CONDITION_KIND_LIMIT,
        severity_level=4,
        state=steps[-1].to_state,
        committed_time=write_time(START_US),
        history=steps,
        summary=summary,
    )
    return Notice(alert_id, change, alert.SerializeToString())


def a_delivery(alert_id: int = 1, change: int = 1) -> Delivery:
    return Delivery(alert_id, change, "0123abcd", 1, False, read_notice(a_notice(alert_id, change).body))


@dataclass(slots=True)
class Heard:
    """A channel that remembers, and fails for the alerts or changes that the test names. `before`: done before each try."""

    name: str = "heard"
    at_once: int = 4
    tried: list[tuple[int, int]] = field(default_factory=list)
    heard: list[tuple[int, int]] = field(default_factory=list)
    failing: dict[int, Exception] = field(default_factory=dict)
    refused: dict[tuple[int, int], Exception] = field(default_factory=dict)
    unsure: list[tuple[int, int]] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    async def deliver(self, delivery: Delivery) -> None:
        this = (delivery.alert_id, delivery.change)
        self.tried.append(this)
        self.before()
        if delivery.unsure:
            self.unsure.append(this)
        if this in self.refused:
            raise self.refused[this]
        if delivery.alert_id in self.failing:
            raise self.failing[delivery.alert_id]
        await asyncio.sleep(0)
        self.heard.append(this)


@dataclass(slots=True)
class Deaf:
    """A channel that never comes to an end."""

    name: str = "deaf"
    at_once: int = 2
    tried: int = 0

    async def deliver(self, delivery: Delivery) -> None:
        self.tried += 1
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class Office:
    """An outbox on a database of its own."""

    engine: AsyncEngine

    def worker(self, *channels: Channel, clock: Clock | None = None, name: str = "w", patience: Patience = QUICK) -> Notify:
        return Notify(self.engine, channels, Progress("notify"), clock or SystemClock(), random.Random(), name, patience)

    async def put(self, *notices: Notice) -> None:
        async with transaction(self.engine) as connection:
            await add(connection, notices)

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with transaction(self.engine) as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]

    async def statuses(self, channel: str) -> dict[tuple[int, int], str]:
        rows = await self.rows(f"SELECT alert_id, change, status FROM alert.deliveries WHERE channel = '{channel}'")
        return {(alert_id, change): status for alert_id, change, status in rows}

    async def all_ended(self, count: int) -> bool:
        """Whether that many deliveries have ended, and none waits."""
        ((ended, waiting),) = await self.rows(
            "SELECT count(*) FILTER (WHERE status <> 'waiting'), count(*) FILTER (WHERE status = 'waiting') FROM alert.deliveries"
        )
        return bool(ended == count and not waiting)


@asynccontextmanager
async def an_office(fresh_database: FreshDatabase) -> AsyncIterator[Office]:
    engine = open_engine(await fresh_database(), 8)
    await create_outbox(engine)
    try:
        yield Office(engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def breakable(engine: AsyncEngine) -> AsyncIterator[tuple[BreakableProxy, AsyncEngine]]:
    """A way to the same database that can be broken. The server has no TCP port, so the proxy leads to a plain forwarder."""
    folder = str(engine.url.query["host"])
    pumps: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        pumps.add(task)
        with suppress(OSError, asyncio.CancelledError):
            there_reader, there_writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
            await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
        writer.transport.abort()
        pumps.discard(task)

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with BreakableProxy(server.sockets[0].getsockname()[1]) as proxy:
        url = engine.url.set(host="127.0.0.1", port=proxy.port, query={})
        broken = open_engine(url.render_as_string(hide_password=False), 2)
        try:
            yield proxy, broken
        finally:
            await broken.dispose()
    server.close()
    for task in list(pumps):
        task.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)
    await server.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort()


def refusing(problem: str = "no", **more: Any) -> NotDelivered:
    return NotDelivered(problem, **more)
