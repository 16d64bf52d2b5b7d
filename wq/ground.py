"""What every service stands on, whichever engines that is: databases, Log, Exchange and Objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.ports import Exchange, Log, Objects
from mesh.run import Worker
from mesh.shard_map import LiveShards
from mesh.stages import Progress

CATALOG_CONNECTIONS = 12
URGENT_CONNECTIONS = 2
SHARD_CONNECTIONS = 5
READ_CONNECTIONS = 8  # of their own: queries, however many, never keep the recorder waiting
DISK_THREADS = 2  # for the archive and for all others: what the one flushes never keeps the others waiting


@dataclass(frozen=True, slots=True)
class Ground:
    """`reads` are the shards by connections of their own, `urgent` is the catalog by those of the alarms, `packed` are the
    objects by threads of the archive. `database`: what is known of an embedded PostgreSQL. `workers` keep the ground itself."""

    catalog: AsyncEngine
    urgent: AsyncEngine
    shards: LiveShards
    reads: LiveShards
    log: Log
    exchange: Exchange
    objects: Objects
    packed: Objects
    archives: Mapping[str, Objects] = field(default_factory=dict)
    workers: Sequence[Worker] = ()
    database: Progress = field(default_factory=lambda: Progress("database"))
