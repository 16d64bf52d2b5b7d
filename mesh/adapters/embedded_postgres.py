"""How a process gets a PostgreSQL of its own, without an administrator: made in a folder, started or adopted, stopped."""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
import structlog
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from mesh.adapters import postgres_cluster
from mesh.adapters.postgres_cluster import USER, Cluster
from mesh.adapters.postgres_connections import translated
from mesh.adapters.postgres_programs import find_programs
from mesh.errors import SetupError

_log = structlog.get_logger()
MIN_FREE_BYTES = 256 * 2**20
_LOG_CHECK_S = 30.0


@dataclass(slots=True)
class EmbeddedPostgres:
    """A server. Reached by its Unix socket only, with a password; both stay as they are over restarts. `pid`: of the one that
    runs now, or ran last."""

    pid: int
    socket_folder: Path
    password: str = field(repr=False)
    cluster: Cluster | None = field(default=None, repr=False)
    """Only where this process has started or adopted it: see postgres_watch.py."""

    def url(self, database: str) -> str:
        """For SQLAlchemy, and for `open_postgres_log` and `open_postgres_exchange`. Holds the password: never log it."""
        host = quote(str(self.socket_folder), safe="")
        return f"postgresql+psycopg://{USER}:{quote(self.password)}@/{quote(database)}?host={host}"

    def dsn(self, database: str) -> str:
        """The same for psycopg and libpq."""
        return make_conninfo(host=str(self.socket_folder), user=USER, password=self.password, dbname=database)

    async def create_database(self, name: str) -> None:
        """There is a database of this name on return; made now, or before. Raises Unavailable, as on a full disk."""
        try:
            async with await psycopg.AsyncConnection.connect(self.dsn("postgres"), autocommit=True) as connection:
                found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                if await found.fetchone() is None:
                    with contextlib.suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                        await connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        except psycopg.OperationalError as error:
            raise translated(error) from error


@asynccontextmanager
async def embedded_postgres(
    folder: Path, *, run_as: str = "nobody", fsync: bool = True, min_free_bytes: int = MIN_FREE_BYTES
) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL 18 whose data is below `folder` (made when missing), accepting connections; one that a killed process
    left running is taken over as it is. Stopped (fast) on leaving, also after a failure of the body.

    `run_as`: the user that PostgreSQL runs as when we are root. `fsync`: False only where data may be lost, as in tests.
    Raises SetupError, with the mend, when the folder is in use, full, unreachable, or of another version of PostgreSQL.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - touches no disk
    with _locked(folder):
        cluster = await asyncio.to_thread(_cluster, folder, run_as, fsync, min_free_bytes)
        server = await asyncio.to_thread(_start, cluster)
        watch = asyncio.create_task(_bound_server_log(cluster))
        try:
            yield server
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await asyncio.to_thread(cluster.stop)


def find_server(folder: Path) -> EmbeddedPostgres:
    """The server that another process of this machine keeps running in `folder`; whether it answers is not asked. Raises
    SetupError when there is none."""
    try:
        pid = int((folder / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        password = (folder / "password").read_text().strip()
    except (OSError, ValueError) as error:
        raise SetupError(f"no PostgreSQL of ours runs in {folder} ({error}): start it with wq up") from None
    return EmbeddedPostgres(pid, postgres_cluster.socket_folder(folder.absolute()), password)


def end_server(folder: Path) -> None:
    """The server that runs in `folder`, if one does, ends at once, by itself; what was committed is durable."""
    with contextlib.suppress(SetupError, OSError):
        server = find_server(folder)
        if postgres_cluster.is_alive(server.pid, folder.absolute()):
            os.kill(server.pid, signal.SIGQUIT)


def _cluster(folder: Path, run_as: str, fsync: bool, min_free_bytes: int) -> Cluster:
    """The data directory, made when it is missing."""
    free = shutil.disk_usage(folder).free
    if free < min_free_bytes:
        raise SetupError(
            f"the disk that holds {folder} is full: {free // 2**20} MiB are free, {min_free_bytes // 2**20} MiB are needed:"
            " make room, or choose another data directory with --data"
        )
    data = folder / "data"
    programs = find_programs(folder, run_as, data.stat().st_uid if data.exists() else None)
    cluster = Cluster(folder, programs, fsync)
    if not data.exists():
        postgres_cluster.make_cluster(cluster, secrets.token_urlsafe(24))
    postgres_cluster.must_be_ours(data)
    return cluster


def _start(cluster: Cluster) -> EmbeddedPostgres:
    password = postgres_cluster.read_password(cluster)
    return EmbeddedPostgres(cluster.adopt(password) or cluster.start(password), cluster.socket_folder, password, cluster)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with its holder, however that ends."""
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o711)  # the user of PostgreSQL must get through it to its own data
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(
            f"the data directory {folder} cannot be written ({error.strerror}): choose another one with --data"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(
                f"the data directory {folder} is in use by another process: stop that one first, or choose another with --data"
            ) from None
        yield
    finally:
        os.close(handle)


async def _bound_server_log(cluster: Cluster) -> None:
    while True:
        await asyncio.sleep(_LOG_CHECK_S)
        try:
            cluster.bound_log()
        except OSError as error:
            _log.warning("the server's log could not be cut", path=str(cluster.log), error=repr(error))
