"""The whole mesh in one process on the embedded default: what it is made of, in the order in which it starts."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc import wiring as alert_wiring
from alert_svc.wiring import Alerting, create_alert_tables, wire_alert
from archive_svc import wiring as archive_wiring
from archive_svc.wiring import Archiving, create_archive_tables, wire_archive
from ingest_svc import service as ingest_service
from ingest_svc.wiring import Accepting, create_ingest_tables, wire_accept, wire_publish, wire_screen, wire_silence
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.embedded_postgres import EmbeddedPostgres, embedded_postgres
from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.adapters.postgres_log import open_postgres_log
from mesh.adapters.postgres_watch import PostgresWatch
from mesh.errors import SetupError, Unavailable
from mesh.listen import target
from mesh.ports import Clock, Exchange, Log, Objects
from mesh.run import Worker, running
from mesh.server import Server, make_server
from mesh.settings import Settings
from mesh.shards import Shards, open_engine, spread
from mesh.stages import Heartbeat, Progress
from mesh.telemetry import STREAMS, Metrics, serve_metrics
from mesh.unserved import UNSERVED, unserved
from query_svc import wiring as query_wiring
from query_svc.wiring import Querying, wire_query
from web_svc.wiring import serving_web
from wq.connect import write_endpoint
from wq.data_directory import DataDirectory
from wq.metering import Metering

_log = structlog.get_logger()
CATALOG = "catalog"
SHARDS = ("shard_0", "shard_1")
CATALOG_CONNECTIONS = 12
URGENT_CONNECTIONS = 2
SHARD_CONNECTIONS = 5
READ_CONNECTIONS = 8  # of their own: queries, however many, never keep the recorder waiting
SERVICES = (ingest_service.NAME, *query_wiring.SERVICES, *alert_wiring.SERVICES, *archive_wiring.SERVICES)
WORKER = "embedded"  # one process at a time has the data directory: its new life takes the place of the old one
OPEN_CALLS_S = 2.0
DISK_THREADS = 2  # for the archive and for all others: what the one flushes to disk never keeps the others waiting


@dataclass(frozen=True, slots=True)
class System:
    """A running mesh. `target` is where its gRPC services listen, `page_address` where the dashboard is; `databases` are the
    catalog and the shards; `database` is what is known of their PostgreSQL."""

    target: str
    metrics_address: str
    page_address: str
    pages: AsyncExitStack
    databases: tuple[AsyncEngine, ...]
    server: Server
    accepting: Accepting
    querying: Querying
    alerting: Alerting
    archiving: Archiving
    database: Progress
    metrics: Metrics
    clock: Clock

    async def drain(self, within_s: float) -> bool:
        """Law 14: closes the dashboard, says NOT_SERVING and `closing`, lets streams and open calls end, takes no more, and lets
        the stages catch up; whether they did within the time."""
        deadline_us = self.clock.now_us() + round(within_s * 1e6)
        await self.pages.aclose()
        await self.server.set_not_serving()
        self.querying.watch.close()
        self.alerting.watch.close()
        self.archiving.archive.hurry()
        await self.accepting.streams.drain(within_s / 2, self.clock)
        await self.server.stop(min(OPEN_CALLS_S, within_s / 4))
        try:
            caught_up = await self.querying.answer.caught_up({}, max(0.0, (deadline_us - self.clock.now_us()) / 1e6))
            await self.querying.losers.export()
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


@dataclass(frozen=True, slots=True)
class _Ground:
    """What every service stands on: the database, and the ports on it. `reads` are the shards by connections of their own,
    `urgent` is the catalog by those of the alarms."""

    postgres: EmbeddedPostgres
    catalog: AsyncEngine
    urgent: AsyncEngine
    shards: Shards
    reads: Shards
    log: Log
    exchange: Exchange
    objects: Objects


async def _start(stack: AsyncExitStack, settings: Settings, data: DataDirectory, clock: Clock) -> System:
    # The ports first: a busy one is found before anything else is touched.
    server = make_server(settings.host, settings.grpc_port, (*SERVICES, *(service.full_name for service in UNSERVED)))
    stack.push_async_callback(server.stop, 0.0)
    metrics = Metrics()
    http_port = stack.enter_context(serve_metrics(metrics, settings.host, settings.http_port))
    ground = await _prepare(stack, settings, data, clock)
    catalog, shards, log, exchange, objects = ground.catalog, ground.shards, ground.log, ground.exchange, ground.objects
    archives = {name: DirectoryObjects(folder) for name, folder in settings.archives.items()}

    accepting = wire_accept(settings, log, clock)
    querying = wire_query(settings, log, exchange, objects, catalog, shards, ground.reads, clock, WORKER)
    alerting = wire_alert(settings, log, exchange, objects, catalog, ground.urgent, clock, WORKER)
    packed = DirectoryObjects(data.objects, stack.enter_context(ThreadPoolExecutor(DISK_THREADS, "archive")))
    archiving = wire_archive(settings, log, packed, archives, catalog, shards, clock)
    await alerting.publisher.publish_pending()
    await querying.publisher.publish_pending()

    database, metering = Progress("database"), Progress("metrics")
    workers = (
        Worker(database, PostgresWatch(ground.postgres, database, clock).run),
        Worker(metering, Metering(metrics, querying.status, querying.answer, clock, metering).run),
        wire_screen(log, objects, catalog, clock),
        wire_publish(log, exchange, catalog, clock),
        wire_silence(settings, log, objects, catalog, clock),
        *querying.workers,
        *alerting.workers,
        archiving.worker,
    )
    progresses = [accepting.progress, *(worker.progress for worker in workers)]
    await _run(stack, workers, progresses, catalog, clock)
    for progress in progresses:
        metrics.follow(progress)
    metrics.read(STREAMS, lambda: len(accepting.streams))

    server.grpc.add_generic_rpc_handlers((accepting.service.handler(), *(unserved(service) for service in UNSERVED)))
    for part in (querying, alerting, archiving):
        part.add_to(server.grpc)
    await server.start()
    stack.push_async_callback(server.stop, 0.0)
    await server.set_serving(SERVICES)
    served, http = target(settings.host, server.port), target(settings.host, http_port)
    pages = await stack.enter_async_context(AsyncExitStack())
    page = await pages.enter_async_context(serving_web(served, settings.host, settings.web_port, clock))
    write_endpoint(data.endpoint, served, http, page)
    stack.callback(data.endpoint.unlink, missing_ok=True)
    databases = (catalog, *shards.engines.values())
    return System(
        served, http, page, pages, databases, server, accepting, querying, alerting, archiving, database, metrics, clock
    )


async def _prepare(stack: AsyncExitStack, settings: Settings, data: DataDirectory, clock: Clock) -> _Ground:
    """PostgreSQL runs, and every table is there."""
    postgres = await stack.enter_async_context(
        embedded_postgres(data.postgres, run_as=settings.postgres_user, fsync=settings.fsync)
    )
    for name in (CATALOG, *SHARDS):
        await postgres.create_database(name)
    catalog = open_engine(postgres.url(CATALOG), CATALOG_CONNECTIONS)
    urgent = open_engine(postgres.url(CATALOG), URGENT_CONNECTIONS, ping=False)
    shards, reads = (
        spread(settings.slots, tuple(open_engine(postgres.url(name), connections) for name in SHARDS))
        for connections in (SHARD_CONNECTIONS, READ_CONNECTIONS)
    )
    for engine in (catalog, urgent, *shards.engines.values(), *reads.engines.values()):
        stack.push_async_callback(engine.dispose)
    await query_wiring.create_tables(catalog, shards)
    await create_ingest_tables(catalog)
    await create_alert_tables(catalog, clock)
    await create_archive_tables(catalog)
    log = await stack.enter_async_context(open_postgres_log(postgres.url(CATALOG), settings.partitions, clock))
    exchange = await stack.enter_async_context(open_postgres_exchange(postgres.url(CATALOG), clock))
    disk = stack.enter_context(ThreadPoolExecutor(DISK_THREADS, "objects"))
    return _Ground(postgres, catalog, urgent, shards, reads, log, exchange, DirectoryObjects(data.objects, disk))


async def _run(
    stack: AsyncExitStack, workers: Sequence[Worker], progresses: Sequence[Progress], catalog: AsyncEngine, clock: Clock
) -> None:
    """The workers run, and are heard."""
    heartbeat = Heartbeat(catalog, progresses, WORKER, clock)
    await heartbeat.beat()  # nobody is to be missed before its first second is over
    stack.push_async_callback(_leave, heartbeat)
    await stack.enter_async_context(running((*workers, Worker(Progress("heartbeat"), heartbeat.run)), clock))


async def _leave(heartbeat: Heartbeat) -> None:
    """After the last beat: nobody is to miss what stopped on purpose."""
    with suppress(Unavailable):
        await heartbeat.leave()
