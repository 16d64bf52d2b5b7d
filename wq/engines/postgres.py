"""One PostgreSQL cluster of the set, made and run from the wheel's programs, and reached on a port of its own."""

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from mesh.adapters import postgres_cluster
from mesh.adapters.postgres_cluster import USER, Cluster
from mesh.adapters.postgres_programs import find_programs
from mesh.errors import SetupError
from wq.engines.engine import NotAnswering
from wq.engines.ports import HOST
from wq.engines.processes import Process, identify

CATALOG = "catalog"
CONNECTIONS = 200  # of many processes
_WAL_SHARE = 8  # of what is free on the disk, which other clusters fill too
_WAL_LEAST_MB, _WAL_MOST_MB = 128, 1024
_PROBE_S = 3
_MAKING = threading.Semaphore(3)  # initdb keeps a core and the disk busy
_REACHING = threading.Lock()


@dataclass(slots=True)
class PostgresCluster:
    """A cluster with these databases. `home`: the folder of the set, where programs are copied to if need be."""

    home: Path
    name: str
    password: str = field(repr=False)
    ports: dict[str, int]
    databases: Sequence[str]
    fsync: bool
    run_as: str = "nobody"

    @property
    def folder(self) -> Path:
        return self.home / self.name

    @property
    def address(self) -> str:
        return f"{HOST}:{self.ports[self.name]}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def launch(self) -> list[Process]:
        with _MAKING:
            cluster = self._cluster()
            if not cluster.data.exists():
                postgres_cluster.make_cluster(cluster, self.password)
            postgres_cluster.must_be_ours(cluster.data)
            pid = cluster.adopt(self.password) or cluster.start(self.password)
        found = identify(pid)
        if found is None:
            raise SetupError(f"{self.name} has ended as soon as it was started; its log is {self.log}")
        return [found]

    def probe(self) -> str:
        try:
            with self._connect("postgres") as connection:
                row = connection.execute("SHOW server_version").fetchone()
        except psycopg.Error as error:
            raise NotAnswering(str(error).strip()) from None
        return f"PostgreSQL {row[0] if row else '?'}"

    def furnish(self) -> None:
        try:
            with self._connect("postgres") as connection:
                there = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
                for name in self.databases:
                    if name not in there:
                        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        except psycopg.Error as error:
            raise SetupError(f"{self.name}: its databases cannot be made: {error}") from error

    def end(self, processes: list[Process]) -> None:
        self._cluster().stop()

    def _cluster(self) -> Cluster:
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o711)
        data = self.folder / "data"
        with _REACHING:
            programs = find_programs(self.home, self.run_as, data.stat().st_uid if data.exists() else None)
        wal_mb = min(_WAL_MOST_MB, max(_WAL_LEAST_MB, shutil.disk_usage(self.folder).free // _WAL_SHARE // 2**20))
        settings = {"max_connections": str(CONNECTIONS), "max_wal_size": f"{wal_mb}MB"}
        return Cluster(self.folder, programs, self.fsync, self.ports[self.name], settings)

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        where = make_conninfo(
            host=HOST,
            port=self.ports[self.name],
            user=USER,
            password=self.password,
            dbname=database,
            connect_timeout=_PROBE_S,
        )
        return psycopg.connect(where, autocommit=True)
