"""How the query service is put together from its ports: record, count, sight, board, retain, and what answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from sqlalchemy.ext.asyncio import AsyncEngine
from waterquality.v1 import catalog_pb2_grpc, ledger_pb2_grpc, query_pb2_grpc

from mesh.context import Publisher
from mesh.ports import Clock, Exchange, Log, Objects
from mesh.run import Worker
from mesh.settings import Settings
from mesh.shards import AnyShards
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL, DEAD, REFUSED, RESTORED, SCREENED, SCREENED_BACKFILL, SILENCE
from query_svc.answer import Answer
from query_svc.board import Board
from query_svc.catalog import CatalogOwner
from query_svc.catalog_service import CatalogService
from query_svc.count import Count
from query_svc.days import Days
from query_svc.fences import Fences
from query_svc.ledger_answer import LedgerAnswer
from query_svc.ledger_service import LedgerService
from query_svc.losers_export import LosersExport
from query_svc.places import Places
from query_svc.query_service import QueryService
from query_svc.record import Record
from query_svc.record_restored import RecordRestored
from query_svc.recorded import Recorded
from query_svc.retain import Retain
from query_svc.sensors import Sensors
from query_svc.sight import Sight
from query_svc.sites import Sites
from query_svc.status import EVERY_STAGE, PipelineStatus
from query_svc.watch import Watch

SERVICES = ("waterquality.v1.QueryService", "waterquality.v1.CatalogService", "waterquality.v1.LedgerService")
SCREENED_BY = ("screen", "count")
PASSED_BY = {
    ACCEPTED: SCREENED_BY,
    BACKFILL: SCREENED_BY,
    REFUSED: ("count",),
    DEAD: ("count",),
    SCREENED: ("record", "sight", "archive", "publish"),
    SCREENED_BACKFILL: ("record", "sight", "archive", "publish"),
    SILENCE: ("publish",),
    RESTORED: ("record", "sight"),
}


@dataclass(frozen=True, slots=True)
class Querying:
    """All roles of the query service in one process."""

    query: QueryService
    catalog: CatalogService
    ledger: LedgerService
    workers: Sequence[Worker]
    watch: Watch
    publisher: Publisher
    status: PipelineStatus
    answer: LedgerAnswer
    losers: LosersExport

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes the server answer for the three services."""
        query_pb2_grpc.add_QueryServiceServicer_to_server(self.query, server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(self.catalog, server)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(self.ledger, server)


def wire_query(
    settings: Settings,
    log: Log,
    exchange: Exchange,
    objects: Objects,
    catalog: AsyncEngine,
    shards: AnyShards,
    reads: AnyShards,
    clock: Clock,
    worker: str,
) -> Querying:
    """All roles of the service; `worker` names the process. `reads` are the same shards by connections of their own, for
    callers' queries."""
    names = ("record", "count", "sight", "board", "retain", "contexts", "record_restored", "losers_export", "days")
    record, count, sight, boarding, retaining, contexts, restoring, exporting, days = (Progress(name) for name in names)
    recorded = Recorded(shards, log.log_id, clock)
    fences = Fences(log, catalog, recorded, clock, archived=True)
    watch = Watch()
    publisher = Publisher(CatalogOwner(catalog), log, objects, contexts, clock)
    retain = Retain(log, catalog, shards, PASSED_BY, clock, settings.retention_days * 86_400, retaining)
    places = Places(catalog)
    status = PipelineStatus(log, catalog, recorded, clock, EVERY_STAGE)
    answer = LedgerAnswer(log, catalog, shards, recorded, clock, archived=True)
    losers = LosersExport(shards, objects, log.log_id, clock, exporting)
    return Querying(
        query=QueryService(Answer(reads, places, recorded, log.log_id), places, watch, status, clock, settings.unread_s),
        catalog=CatalogService(Sites(catalog, clock), Sensors(catalog, clock)),
        ledger=LedgerService(answer, log.log_id, log.partition_count),
        workers=(
            Worker(record, Record(log, shards, record).run),
            Worker(count, Count(log, catalog, fences, clock, count).run),
            Worker(sight, Sight(log, catalog, sight).run),
            Worker(boarding, Board(exchange, watch, worker, boarding).run),
            Worker(restoring, RecordRestored(log, shards, restoring).run),
            Worker(exporting, losers.run),
            Worker(retaining, retain.run),
            Worker(days, Days(catalog, shards, objects, log.log_id, clock, days).run),
            Worker(contexts, publisher.run),
        ),
        watch=watch,
        publisher=publisher,
        status=status,
        answer=answer,
        losers=losers,
    )
