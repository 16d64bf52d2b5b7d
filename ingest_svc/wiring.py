"""How the ingest service is put together from its ports: accept, screen, publish and silence."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc import silence_tables
from ingest_svc.accept import Acceptor
from ingest_svc.board_updates import BoardUpdates
from ingest_svc.judge import Limits
from ingest_svc.open_streams import OpenStreams
from ingest_svc.publish import Publish
from ingest_svc.screen import Screen
from ingest_svc.screened_positions import ScreenedPositions
from ingest_svc.service import IngestService, Patience
from ingest_svc.silence import Silence
from ingest_svc.silence_state import SilenceSpans
from ingest_svc.window import Window
from mesh.ports import Clock, Exchange, Log, Objects
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


async def create_ingest_tables(catalog: AsyncEngine) -> None:
    """Makes what is missing. Safe to repeat and to run from several processes."""
    await silence_tables.create_tables(catalog)


def wire_publish(log: Log, exchange: Exchange, catalog: AsyncEngine, clock: Clock) -> Worker:
    """The role `publish`."""
    progress = Progress("publish")
    return Worker(progress, Publish(log, exchange, catalog, progress, clock, BoardUpdates(exchange, clock)).run)


def wire_silence(settings: Settings, log: Log, objects: Objects, catalog: AsyncEngine, clock: Clock) -> Worker:
    """The role `silence`."""
    progress = Progress("silence")
    spans = SilenceSpans(gateway_s=settings.silence_gateway_s)
    return Worker(progress, Silence(log, objects, catalog, progress, clock, spans).run)
