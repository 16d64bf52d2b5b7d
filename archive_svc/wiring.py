"""How the archive service is put together from its ports: archive, compact, and what lists, verifies and restores."""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from sqlalchemy.ext.asyncio import AsyncEngine
from waterquality.v1 import archive_pb2_grpc

from archive_svc import restore_tables, tables
from archive_svc.archive import Archive
from archive_svc.archive_service import ArchiveService
from archive_svc.compact import Compact
from archive_svc.manifest import Manifest
from archive_svc.restore import Restore
from archive_svc.verify import Verify
from mesh.ports import Clock, Log, Objects
from mesh.run import Worker
from mesh.settings import Settings
from mesh.shards import AnyShards
from mesh.stages import Progress

SERVICES = ("waterquality.v1.ArchiveService",)


@dataclass(frozen=True, slots=True)
class Archiving:
    """All roles of the archive service in one process."""

    service: ArchiveService
    worker: Worker
    archive: Archive
    compact: Worker

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The roles archive and compact."""
        return self.worker, self.compact

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes the server answer for the service."""
        archive_pb2_grpc.add_ArchiveServiceServicer_to_server(self.service, server)


async def create_archive_tables(catalog: AsyncEngine) -> None:
    """Makes what is missing. Safe to repeat and to run from several processes."""
    await tables.create_tables(catalog)
    await restore_tables.create_tables(catalog)


def wire_archive(
    settings: Settings,
    log: Log,
    objects: Objects,
    archives: Mapping[str, Objects],
    catalog: AsyncEngine,
    shards: AnyShards,
    clock: Clock,
) -> Archiving:
    """All roles of the service. `archives`: those of other deployments that can be restored from, by name."""
    by_json = settings.archive_json
    progress = Progress("archive")
    archive = Archive(log, objects, catalog, progress, clock, settings.archive_chunk_s, settings.archive_chunk_readings, by_json)
    compacting = Progress("compact")
    compact = Compact(log.log_id, objects, catalog, compacting, clock, settings.archive_compact_h, by_json)
    manifest = Manifest(catalog)
    restore = Restore(log, objects, archives, catalog, shards, clock)
    service = ArchiveService(manifest, Verify(manifest, objects), restore, settings.unread_s)
    return Archiving(service, Worker(progress, archive.run), archive, Worker(compacting, compact.run))
