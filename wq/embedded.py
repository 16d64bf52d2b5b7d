"""The whole mesh in one process on the embedded default: what it is made of, in the order in which it starts."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc import service as ingest_service
from ingest_svc.wiring import Accepting, wire_accept, wire_screen
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.embedded_postgres import embedded_postgres
from mesh.adapters.postgres_log import open_postgres_log
from mesh.adapters.postgres_watch import PostgresWatch
from mesh.codec.log_records import ContextKind
from mesh.context import ensure_first_contexts
from mesh.errors import SetupError, Unavailable
from mesh.listen import target
from mesh.ports import Clock
from mesh.run import Worker, running
from mesh.server import Server, make_server
from mesh.settings import Settings
from mesh.shards import open_engine, spread
from mesh.stages import Heartbeat, Progress
from mesh.telemetry import STREAMS, Metrics, serve_metrics
from mesh.unserved import UNSERVED, unserved
from query_svc import wiring as query_wiring
from query_svc.wiring import Querying, wire_query
from wq.connect import write_endpoint
from wq.data_directory import DataDirectory
from wq.metering import Metering

_log = structlog.get_logger()
CATALOG = "catalog"
SHARDS = ("shard_0", "shard_1")
CATALOG_CONNECTIONS = 12
SHARD_CONNECTIONS = 5
READ_CONNECTIONS = 8  # of their own: queries, however many, never keep the recorder waiting
SERVICES = (ingest_service.NAME, *query_wiring.SERVICES)
NO_RULES = b""
WORKER = "embedded"  # one process at a time has the data directory: its new life takes the place of the old one
OPEN_CALLS_S = 2.0


@dataclass(frozen=True, slots=True)
class System:
    """A running mesh. `target` is where its gRPC services listen, `databases` are the catalog and the shards; `database` is what
    is known of their PostgreSQL."""

    target: str
    metrics_address: str
    databases: tuple[AsyncEngine, ...]
    server: Server
    accepting: Accepting
    querying: Querying
    database: Progress
    metrics: Metrics
    clock: Clock

    async def drain(self, within_s: float) -> bool:
        """Law 14: says NOT_SERVING and `closing`, lets streams and open calls end, takes no more, and lets the stages catch up;
        whether they did within the time."""
        deadline_us = self.clock.now_us() + round(within_s * 1e6)
        await self.server.set_not_serving()
        self.querying.watch.close()
        await self.accepting.streams.drain(within_s / 2, self.clock)
        await self.server.stop(min(OPEN_CALLS_S, within_s / 4))
        try:
            caught_up = await self.querying.answer.caught_up({}, max(0.0, (deadline_us - self.clock.now_us()) / 1e6))
        except Unavailable as error:
            _log.warning("stages cannot finish", problem=error.message)
            return False
        return caught_up


@asynccontextmanager
async def running_system(settings: Settings, data: DataDirectory, clock: Clock) -> AsyncIterator[System]:
    """Everything is up and serving inside the block, and gone after it; `System.drain` first, so that it ends in order.
    Raises SetupError, with the mend, when it cannot start as configured."""
    async with AsyncExitStack() as stack:
        try:
            system = await _start(stack, settings, data, clock)
        except Unavailable as error:
            log = data.postgres / "server.log"
            raise SetupError(f"cannot start on {data.path}: {error.message}; the log of its PostgreSQL is {log}") from error
        yield system


async def _start(stack: AsyncExitStack, settings: Settings, data: DataDirectory, clock: Clock) -> System:
    # The ports first: a busy one is found before anything else is touched.
    server = make_server(settings.host, settings.grpc_port, (*SERVICES, *(service.full_name for service in UNSERVED)))
    stack.push_async_callback(server.stop, 0.0)
    metrics = Metrics()
    http_port = stack.enter_context(serve_metrics(metrics, settings.host, settings.http_port))

    postgres = await stack.enter_async_context(
        embedded_postgres(data.postgres, run_as=settings.postgres_user, fsync=settings.fsync)
    )
    for name in (CATALOG, *SHARDS):
        await postgres.create_database(name)
    catalog = open_engine(postgres.url(CATALOG), CATALOG_CONNECTIONS)
    shards, reads = (
        spread(settings.slots, tuple(open_engine(postgres.url(name), connections) for name in SHARDS))
        for connections in (SHARD_CONNECTIONS, READ_CONNECTIONS)
    )
    databases = (catalog, *shards.engines)
    for engine in (*databases, *reads.engines):
        stack.push_async_callback(engine.dispose)
    await query_wiring.create_tables(catalog, shards)
    log = await stack.enter_async_context(open_postgres_log(postgres.url(CATALOG), settings.partitions, clock))
    objects = DirectoryObjects(data.objects)

    accepting = wire_accept(settings, log, clock)
    querying = wire_query(settings, log, objects, catalog, shards, reads, clock)
    await ensure_first_contexts({ContextKind.RULES: NO_RULES}, log, objects)
    await querying.publisher.publish_pending()

    database, beating = Progress("database"), Progress("heartbeat")
    metering = Progress("metrics")
    meter = Metering(metrics, querying.status, querying.answer, clock, metering)
    watch = Worker(database, PostgresWatch(postgres, database, clock).run)
    workers = (watch, Worker(metering, meter.run), wire_screen(log, objects, catalog, clock), *querying.workers)
    progresses = [accepting.progress, *(worker.progress for worker in workers)]
    heartbeat = Heartbeat(catalog, progresses, WORKER, clock)
    await heartbeat.beat()  # nobody is to be missed before its first second is over
    stack.push_async_callback(_leave, heartbeat)
    await stack.enter_async_context(running((*workers, Worker(beating, heartbeat.run)), clock))
    for progress in progresses:
        metrics.follow(progress)
    metrics.read(STREAMS, lambda: len(accepting.streams))

    server.grpc.add_generic_rpc_handlers((accepting.service.handler(), *(unserved(service) for service in UNSERVED)))
    querying.add_to(server.grpc)
    await server.start()
    stack.push_async_callback(server.stop, 0.0)
    await server.set_serving(SERVICES)
    served, http = target(settings.host, server.port), target(settings.host, http_port)
    write_endpoint(data.endpoint, served, http)
    stack.callback(data.endpoint.unlink, missing_ok=True)
    return System(served, http, databases, server, accepting, querying, database, metrics, clock)


async def _leave(heartbeat: Heartbeat) -> None:
    """After the last beat: nobody is to miss what stopped on purpose."""
    with suppress(Unavailable):
        await heartbeat.leave()
