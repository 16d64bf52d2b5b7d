"""The whole mesh in one process on the embedded default: what it is made of, in the order in which it starts."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc import service as ingest_service
from ingest_svc.wiring import Accepting, wire_accept, wire_screen
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.embedded_postgres import EmbeddedPostgres, embedded_postgres
from mesh.adapters.postgres_log import open_postgres_log
from mesh.codec.log_records import ContextKind
from mesh.context import ensure_first_contexts
from mesh.ports import Clock
from mesh.run import Worker, running
from mesh.server import Server, make_server
from mesh.settings import Settings
from mesh.shards import open_engine, spread
from mesh.stages import Heartbeat, Progress
from mesh.telemetry import Metrics, serve_metrics
from mesh.unserved import UNSERVED, unserved
from query_svc import wiring as query_wiring
from query_svc.wiring import Querying, wire_query
from wq.connect import write_endpoint
from wq.data_directory import DataDirectory

CATALOG = "catalog"
SHARDS = ("shard_0", "shard_1")
CATALOG_CONNECTIONS = 12
SHARD_CONNECTIONS = 10
SERVICES = (ingest_service.NAME, *query_wiring.SERVICES)
NO_RULES = b""


@dataclass(frozen=True, slots=True)
class System:
    """A running mesh. `target` is where its gRPC services listen, `databases` are the catalog and the shards."""

    target: str
    metrics_address: str
    postgres: EmbeddedPostgres
    databases: tuple[AsyncEngine, ...]
    server: Server
    accepting: Accepting
    querying: Querying
    heartbeat: Heartbeat
    clock: Clock

    async def drain(self, within_s: float) -> bool:
        """Takes nothing more, lets streams end and stages catch up; whether they did within the time (law 14)."""
        deadline_us = self.clock.now_us() + round(within_s * 1e6)
        await self.server.set_not_serving()
        self.querying.watch.close()
        await self.accepting.streams.drain(within_s / 2, self.clock)
        left_s = max(0.0, (deadline_us - self.clock.now_us()) / 1e6)
        caught_up = await self.querying.answer.caught_up({}, left_s)
        await self.heartbeat.leave()
        return caught_up


@asynccontextmanager
async def running_system(settings: Settings, data: DataDirectory, clock: Clock) -> AsyncIterator[System]:
    """Everything is up and serving inside the block, and gone after it; `System.drain` first, so that it ends in order.
    Raises SetupError, with the mend, when it cannot start as configured."""
    async with AsyncExitStack() as stack:
        # The ports first: a busy one is found before anything else is touched.
        server = make_server(settings.host, settings.grpc_port, (*SERVICES, *(service.full_name for service in UNSERVED)))
        stack.push_async_callback(server.stop, 1.0)
        metrics = Metrics()
        http_port = stack.enter_context(serve_metrics(metrics, settings.host, settings.http_port))

        postgres = await stack.enter_async_context(
            embedded_postgres(data.postgres, run_as=settings.postgres_user, fsync=settings.fsync)
        )
        for name in (CATALOG, *SHARDS):
            await postgres.create_database(name)
        catalog = open_engine(postgres.url(CATALOG), CATALOG_CONNECTIONS)
        shards = spread(settings.slots, tuple(open_engine(postgres.url(name), SHARD_CONNECTIONS) for name in SHARDS))
        databases = (catalog, *shards.engines)
        for engine in databases:
            stack.push_async_callback(engine.dispose)
        await query_wiring.create_tables(catalog, shards)
        log = await stack.enter_async_context(open_postgres_log(postgres.url(CATALOG), settings.partitions, clock))
        objects = DirectoryObjects(data.objects)

        accepting = wire_accept(settings, log, clock)
        screen = wire_screen(log, objects, catalog, clock)
        querying = wire_query(settings, log, objects, catalog, shards, clock)
        await ensure_first_contexts({ContextKind.RULES: NO_RULES}, log, objects)
        await querying.publisher.publish_pending()

        workers = (screen, *querying.workers)
        beating = Progress("heartbeat")
        progresses = [accepting.progress, *(worker.progress for worker in workers)]
        heartbeat = Heartbeat(catalog, progresses, f"{socket.gethostname()}/embedded", clock)
        await stack.enter_async_context(running((*workers, Worker(beating, heartbeat.run)), clock))

        server.grpc.add_generic_rpc_handlers((accepting.service.handler(), *(unserved(service) for service in UNSERVED)))
        querying.add_to(server.grpc)
        await server.start()
        await server.set_serving(SERVICES)
        target, http = f"{settings.host}:{server.port}", f"{settings.host}:{http_port}"
        write_endpoint(data.endpoint, target, http)
        stack.callback(data.endpoint.unlink, missing_ok=True)
        yield System(target, http, postgres, databases, server, accepting, querying, heartbeat, clock)
