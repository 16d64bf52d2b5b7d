"""How the ingest service is put together from its ports: accept and screen."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc.accept import Acceptor
from ingest_svc.judge import Limits
from ingest_svc.open_streams import OpenStreams
from ingest_svc.screen import Screen
from ingest_svc.screened_positions import ScreenedPositions
from ingest_svc.service import IngestService, Patience
from ingest_svc.window import Window
from mesh.ports import Clock, Log, Objects
from mesh.run import Worker
from mesh.settings import Settings
from mesh.stages import Progress


@dataclass(frozen=True, slots=True)
class Accepting:
    """The role `accept`: the service and what a drain needs."""

    service: IngestService
    streams: OpenStreams
    progress: Progress


def wire_accept(settings: Settings, log: Log, clock: Clock) -> Accepting:
    """The role `accept`."""
    limits = Limits(
        settings.max_batch_readings, settings.max_batch_bytes, int(settings.future_tolerance_s * 1e6), settings.horizon_us
    )
    progress = Progress("accept")
    streams = OpenStreams(settings.max_streams)
    window = Window(settings.window_batches, settings.window_bytes)
    patience = Patience(settings.stream_open_s, settings.unread_s)
    service = IngestService(Acceptor(log, clock, limits, progress), clock, limits, window, streams, patience)
    return Accepting(service, streams, progress)


def wire_screen(log: Log, objects: Objects, catalog: AsyncEngine, clock: Clock) -> Worker:
    """The role `screen`."""
    progress = Progress("screen")
    kept = ScreenedPositions(catalog, log.log_id)
    return Worker(progress, Screen(log, objects, clock, progress, kept.moved).run)
