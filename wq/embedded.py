"""The embedded default: a PostgreSQL of our own with everything in it, and objects in a directory. No server, no root."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.embedded_postgres import embedded_postgres
from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.adapters.postgres_log import open_postgres_log
from mesh.adapters.postgres_watch import PostgresWatch
from mesh.errors import SetupError, Unavailable
from mesh.ports import Clock
from mesh.run import Worker
from mesh.settings import Settings
from mesh.shard_map import LiveShards, read_map
from mesh.shards import open_engine
from mesh.stages import Progress
from wq.data_directory import DataDirectory
from wq.ground import CATALOG_CONNECTIONS, DISK_THREADS, READ_CONNECTIONS, SHARD_CONNECTIONS, URGENT_CONNECTIONS, Ground
from wq.migrations.deployment import Wanted, migrate_all, must_be_done

CATALOG = "catalog"
SHARDS = ("shard_0", "shard_1")
WORKER = "embedded"  # one process at a time has the data directory: its new life takes the place of the old one


async def embedded_ground(stack: AsyncExitStack, settings: Settings, data: DataDirectory, clock: Clock) -> Ground:
    """PostgreSQL runs, and every table is there; gone with the stack. Raises SetupError, with the mend, when it cannot start as
    configured."""
    try:
        return await _ground(stack, settings, data, clock)
    except Unavailable as error:
        log = data.postgres / "server.log"
        raise SetupError(f"cannot start on {data.path}: {error.message}; the log of its PostgreSQL is {log}") from error


async def _ground(stack: AsyncExitStack, settings: Settings, data: DataDirectory, clock: Clock) -> Ground:
    postgres = await stack.enter_async_context(
        embedded_postgres(data.postgres, run_as=settings.postgres_user, fsync=settings.fsync)
    )
    for name in (CATALOG, *SHARDS):
        await postgres.create_database(name)
    catalog = open_engine(postgres.url(CATALOG), CATALOG_CONNECTIONS)
    urgent = open_engine(postgres.url(CATALOG), URGENT_CONNECTIONS, ping=False)
    for engine in (catalog, urgent):
        stack.push_async_callback(engine.dispose)
    wanted = Wanted(lambda address: postgres.url(address or CATALOG), SHARDS, settings.slots, settings.keep_days)
    must_be_done(await migrate_all(wanted, clock, lambda _: None))
    found = await read_map(catalog)
    assert found is not None
    shards, reads = (
        LiveShards(catalog, found, lambda address, most=connections: open_engine(postgres.url(address), most))  # type: ignore[misc]
        for connections in (SHARD_CONNECTIONS, READ_CONNECTIONS)
    )
    for live in (shards, reads):
        stack.push_async_callback(live.dispose)
    log = await stack.enter_async_context(open_postgres_log(postgres.url(CATALOG), settings.partitions, clock))
    exchange = await stack.enter_async_context(open_postgres_exchange(postgres.url(CATALOG), clock))
    threads = [stack.enter_context(ThreadPoolExecutor(DISK_THREADS, name)) for name in ("objects", "archive")]
    objects, packed = (DirectoryObjects(data.objects, pool) for pool in threads)
    database = Progress("database")
    watch = Worker(database, PostgresWatch(postgres, database, clock).run)
    archives = {name: DirectoryObjects(folder) for name, folder in settings.archives.items()}
    return Ground(catalog, urgent, shards, reads, log, exchange, objects, packed, archives, (watch,), database)
