"""A running mesh, or the part of it that a process has: what it is made of, in the order in which it starts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc import wiring as alert_wiring
from alert_svc.wiring import Alerting, wire_alert
from archive_svc import wiring as archive_wiring
from archive_svc.wiring import Archiving, wire_archive
from ingest_svc import service as ingest_service
from ingest_svc.wiring import Accepting, wire_accept, wire_publish, wire_screen, wire_silence
from mesh.errors import Unavailable
from mesh.listen import target
from mesh.ports import Clock
from mesh.run import Worker, running
from mesh.server import Server, make_server
from mesh.settings import Settings
from mesh.shard_map import FollowMap
from mesh.stages import Heartbeat, Progress
from mesh.telemetry import STREAMS, Metrics, serve_metrics
from mesh.unserved import UNSERVED, unserved
from query_svc import wiring as query_wiring
from query_svc.wiring import Querying, wire_query
from web_svc.wiring import serving_web
from wq.connect import write_endpoint
from wq.ground import Ground
from wq.metering import Metering
from wq.roles import EVERYTHING, Roles, has_stage

_log = structlog.get_logger()
OPEN_CALLS_S = 2.0
SERVICES = {
    "ingest": (ingest_service.NAME,),
    "query": query_wiring.SERVICES,
    "alert": alert_wiring.SERVICES,
    "archive": archive_wiring.SERVICES,
}
MakeGround = Callable[[AsyncExitStack], Awaitable[Ground]]


@dataclass(frozen=True, slots=True)
class System:
    """What runs here. `target` is where its gRPC services listen, `page_address` where the dashboard is (empty: elsewhere)."""

    roles: Roles
    target: str
    metrics_address: str
    page_address: str
    pages: AsyncExitStack
    ground: Ground
    server: Server
    accepting: Accepting
    querying: Querying
    alerting: Alerting
    archiving: Archiving
    metrics: Metrics
    clock: Clock

    async def drain(self, within_s: float) -> bool:
        """Law 14: closes the dashboard, says NOT_SERVING and `closing`, lets streams and open calls end, takes no more; where
        everything runs here, lets the stages catch up. Whether they did within the time."""
        deadline_us = self.clock.now_us() + round(within_s * 1e6)
        await self.pages.aclose()
        await self.server.set_not_serving()
        self.querying.watch.close()
        self.alerting.watch.close()
        self.archiving.archive.hurry()
        await self.accepting.streams.drain(within_s / 2, self.clock)
        await self.server.stop(min(OPEN_CALLS_S, within_s / 4))
        if self.roles != EVERYTHING:
            return True
        try:
            caught_up = await self.querying.answer.caught_up({}, max(0.0, (deadline_us - self.clock.now_us()) / 1e6))
            await self.querying.losers.export()
        except Unavailable as error:
            _log.warning("stages cannot finish", problem=error.message)
            return False
        return caught_up


@asynccontextmanager
async def running_system(
    settings: Settings, make_ground: MakeGround, clock: Clock, name: str, endpoint: Path | None, roles: Roles = EVERYTHING
) -> AsyncIterator[System]:
    """The roles are up and serving inside the block, and gone after it; `System.drain` first, so that they end in order. `name`
    is the process's in heartbeats, the same in its next life; empty: its services and where they listen. `endpoint`: the file
    that says where it listens. Raises SetupError, with the mend, when it cannot start as configured."""
    async with AsyncExitStack() as stack:
        yield await _start(stack, settings, make_ground, clock, name, endpoint, roles)


async def _start(
    stack: AsyncExitStack,
    settings: Settings,
    make_ground: MakeGround,
    clock: Clock,
    name: str,
    endpoint: Path | None,
    roles: Roles,
) -> System:
    # The ports first: a busy one is found before anything else is touched.
    serving = [each for service in roles if roles[service] & {"accept", "answer"} for each in SERVICES[service]]
    missing = UNSERVED if roles == EVERYTHING else ()
    named = (*serving, *(service.full_name for service in missing))
    server = make_server(settings.host, settings.grpc_port, named, reuse_port=settings.reuse_port)
    stack.push_async_callback(server.stop, 0.0)
    metrics = Metrics()
    http_port = stack.enter_context(serve_metrics(metrics, settings.host, settings.http_port))
    ground = await make_ground(stack)
    served, http = target(settings.host, server.port), target(settings.host, http_port)
    name = name or f"{'+'.join(roles)} {served}"

    accepting, querying, alerting, archiving = _wire(settings, ground, clock, name)
    await alerting.publisher.publish_pending()  # version 1 of every context is there before anything is accepted
    await querying.publisher.publish_pending()
    workers = _workers(settings, ground, clock, roles, (querying, alerting, archiving), metrics)
    progresses = [worker.progress for worker in workers]
    if "accept" in roles.get("ingest", ()):
        progresses.insert(0, accepting.progress)
    await _run(stack, workers, progresses, ground.catalog, name, clock)
    for progress in progresses:
        metrics.follow(progress)
    metrics.read(STREAMS, lambda: len(accepting.streams))

    if "accept" in roles.get("ingest", ()):
        server.grpc.add_generic_rpc_handlers((accepting.service.handler(),))
    server.grpc.add_generic_rpc_handlers(tuple(unserved(service) for service in missing))
    for service, part in (("query", querying), ("alert", alerting), ("archive", archiving)):
        if "answer" in roles.get(service, ()):
            part.add_to(server.grpc)
    await server.start()
    stack.push_async_callback(server.stop, 0.0)
    await server.set_serving(serving)
    pages = await stack.enter_async_context(AsyncExitStack())
    page = ""
    if roles == EVERYTHING:
        page = await pages.enter_async_context(serving_web(served, settings.host, settings.web_port, clock))
    if endpoint is not None:
        write_endpoint(endpoint, served, http, page)
        stack.callback(endpoint.unlink, missing_ok=True)
    return System(roles, served, http, page, pages, ground, server, accepting, querying, alerting, archiving, metrics, clock)


def _wire(settings: Settings, ground: Ground, clock: Clock, name: str) -> tuple[Accepting, Querying, Alerting, Archiving]:
    """Everything; what a process does not have a role for is never run, and costs nothing."""
    log, exchange, objects, catalog = ground.log, ground.exchange, ground.objects, ground.catalog
    return (
        wire_accept(settings, log, clock),
        wire_query(settings, log, exchange, objects, catalog, ground.shards, ground.reads, clock, name),
        wire_alert(settings, log, exchange, objects, catalog, ground.urgent, clock, name),
        wire_archive(settings, log, ground.packed, ground.archives, catalog, ground.shards, clock),
    )


def _workers(
    settings: Settings,
    ground: Ground,
    clock: Clock,
    roles: Roles,
    parts: tuple[Querying, Alerting, Archiving],
    metrics: Metrics,
) -> list[Worker]:
    querying, alerting, archiving = parts
    log, exchange, objects, catalog = ground.log, ground.exchange, ground.objects, ground.catalog
    of_service = {
        "ingest": (
            wire_screen(log, objects, catalog, clock),
            wire_publish(log, exchange, catalog, clock),
            wire_silence(settings, log, objects, catalog, clock),
        ),
        "query": querying.workers,
        "alert": alerting.workers,
        "archive": archiving.workers,
    }
    mapping = Progress("shard_map")
    workers = [*ground.workers, Worker(mapping, FollowMap((ground.shards, ground.reads), mapping, clock).run)]
    if "answer" in roles.get("query", ()):
        metering = Progress("metrics")
        workers.append(Worker(metering, Metering(metrics, querying.status, querying.answer, clock, metering).run))
    for service, some in of_service.items():
        workers += [worker for worker in some if has_stage(roles, service, worker.progress.stage)]
    return workers


async def _run(
    stack: AsyncExitStack,
    workers: Sequence[Worker],
    progresses: Sequence[Progress],
    catalog: AsyncEngine,
    name: str,
    clock: Clock,
) -> None:
    """The workers run, and are heard."""
    heartbeat = Heartbeat(catalog, progresses, name, clock)
    await heartbeat.beat()  # nobody is to be missed before its first second is over
    stack.push_async_callback(_leave, heartbeat)
    await stack.enter_async_context(running((*workers, Worker(Progress("heartbeat"), heartbeat.run)), clock))


async def _leave(heartbeat: Heartbeat) -> None:
    """After the last beat: nobody is to miss what stopped on purpose."""
    with suppress(Unavailable):
        await heartbeat.leave()
