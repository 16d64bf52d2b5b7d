"""AlertService on a real gRPC server, over tables of its own, and as many other processes' worth of it as a test wants."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from sqlalchemy.ext.asyncio import AsyncEngine
from waterquality.v1 import alert_pb2_grpc

from alert_svc.alert_service import AlertService
from alert_svc.alerts import Alerts
from alert_svc.watch import AlertWatch
from mesh.clock import SystemClock
from mesh.errors import WaterError, from_rpc
from mesh.shards import open_engine
from tests.alert.alerting import Alerting, FreshDatabase, alerting
from tests.query.deployment import running

_READS_LITTLE_AHEAD = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024)]


@dataclass(slots=True)
class AlertServing:
    """A stub, and what stands behind it."""

    stub: "alert_pb2_grpc.AlertServiceAsyncStub"
    mesh: Alerting
    alerts: Alerts
    watch: AlertWatch
    target: str


@asynccontextmanager
async def alert_serving(fresh_database: FreshDatabase, unread_s: float = 30.0) -> AsyncIterator[AlertServing]:
    async with alerting(fresh_database) as mesh, served(mesh, mesh.catalog, unread_s) as made:
        yield made


@asynccontextmanager
async def another(mesh: Alerting) -> AsyncIterator[AlertServing]:
    """Like another process: with connections of its own, and no other way to hear of anything."""
    engine = open_engine(mesh.url, 4)
    try:
        async with served(mesh, engine) as made:
            yield made
    finally:
        await engine.dispose()


@asynccontextmanager
async def served(mesh: Alerting, engine: AsyncEngine, unread_s: float = 30.0) -> AsyncIterator[AlertServing]:
    watch = AlertWatch(engine)
    alerts = Alerts(engine, SystemClock(), watch.wake)
    server = grpc.aio.server()
    alert_pb2_grpc.add_AlertServiceServicer_to_server(AlertService(alerts, watch, unread_s), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with running(watch.run), grpc.aio.insecure_channel(f"127.0.0.1:{port}", _READS_LITTLE_AHEAD) as channel:
            stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(channel)
            yield AlertServing(stub, mesh, alerts, watch, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)


async def error_of(call: Awaitable[object]) -> WaterError:
    """The error that a call ends with."""
    try:
        await call
    except grpc.RpcError as error:
        return from_rpc(error)
    raise AssertionError("the call should have failed")
