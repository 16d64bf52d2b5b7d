"""What is done to one PostgreSQL data directory: made, found alive, started, stopped. All of it blocks: call it in a thread."""

import hashlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from mesh.adapters.postgres_programs import Programs
from mesh.errors import SetupError

USER = "water"
VERSION = "18"
_START_S = 60.0
_PREDECESSOR_S = 15.0
_SOCKET_LIMIT_BYTES = 100
_SOCKETS = "unix_socket_directories"
_SOCKET_NAME = ".s.PGSQL.5432.lock"
_LOG_LIMIT_BYTES = 8 * 2**20
_WAL_SHARE = 8  # of what is free, so that a small disk is not filled before the first checkpoint
_WAL_LEAST_MB, _WAL_MOST_MB = 128, 4096
_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "shared_buffers": "256MB",
    "huge_pages": "off",
    "max_connections": "100",
    "synchronous_commit": "on",
    "jit": "off",
    "track_io_timing": "off",
    "timezone": "UTC",
    "log_checkpoints": "off",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_line_prefix": "%m [%p] ",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """One data directory, `folder`/data, with the programs that may touch it."""

    folder: Path
    programs: Programs
    fsync: bool
    port: int | None = None
    """Where it listens besides, on 127.0.0.1; None: it is reached by its socket alone."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Over those that every server of ours has."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def socket_folder(self) -> Path:
        return socket_folder(self.folder)

    def adopt(self, password: str) -> int | None:
        """The process id of the server that is alive on this data directory and answers; None: there is none. A process id
        file alone proves nothing: a killed server leaves its own behind, and its number may be another's by now."""
        deadline = time.monotonic() + _START_S
        while self._status_says_running():
            pid = self._written_pid()
            if pid is not None and not self.is_alive(pid):
                (self.data / "postmaster.pid").unlink(missing_ok=True)
                return None
            if pid is not None and self._answers(password):
                return pid
            if time.monotonic() > deadline:
                raise SetupError(f"a PostgreSQL runs on {self.data} but does not answer: stop process {pid} and start again")
            time.sleep(0.05)
        return None

    def start(self, password: str) -> int:
        """The process id of a server of our own, which answers. It has a session of its own, so that Ctrl-C stops us, not it."""
        self._make_socket_folder()
        wal_mb = min(_WAL_MOST_MB, max(_WAL_LEAST_MB, shutil.disk_usage(self.folder).free // _WAL_SHARE // 2**20))
        settings = _SETTINGS | {
            "fsync": "on" if self.fsync else "off",
            "max_wal_size": f"{wal_mb}MB",
            _SOCKETS: str(self.socket_folder),
            **({"listen_addresses": "127.0.0.1", "port": str(self.port)} if self.port else {}),
            **self.settings,
        }
        options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
        self.bound_log()
        deadline = time.monotonic() + _PREDECESSOR_S
        while True:
            code, said = self._try_to_start(options)
            pid = self._written_pid()
            if code == 0 and pid is not None and self._answers(password):
                return pid
            if code == 0:
                self.stop()  # it runs, but does not answer us: nobody would stop it later
            if "pre-existing shared memory block" not in said or time.monotonic() > deadline:
                raise self._start_failed(said)
            time.sleep(0.1)  # sessions of a killed server are still ending

    def stop(self) -> None:
        """No server runs on this data directory on return; one that was killed already is fine."""
        for mode in ("fast", "immediate"):
            pid = self._written_pid()
            if pid is None or not self.is_alive(pid) or not self._status_says_running():
                return
            self.programs.run("pg_ctl", "stop", "-m", mode, "-w", "-t", f"{_START_S:.0f}", data=self.data)

    def is_alive(self, pid: int) -> bool:
        """Whether this process is a server of this data directory."""
        return is_alive(pid, self.folder)

    def bound_log(self) -> None:
        """Keeps the server's log, and the one before it, below a limit. The server only appends, so it may be cut under it."""
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            shutil.copyfile(self.log, self.log.with_name("server.log.1"))
            os.truncate(self.log, 0)

    def _status_says_running(self) -> bool:
        return self.programs.run("pg_ctl", "status", data=self.data).code == 0

    def _written_pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def _answers(self, password: str) -> bool:
        host, port = str(self.socket_folder), self.port or int(_SETTINGS["port"])
        where = make_conninfo(host=host, port=port, user=USER, password=password, dbname="postgres", connect_timeout=5)
        try:
            with psycopg.connect(where) as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
        except psycopg.OperationalError:
            return False
        return row is not None and Path(row[0]) == self.data

    def _make_socket_folder(self) -> None:
        place = self.socket_folder
        place.mkdir(mode=0o700, exist_ok=True)
        owner = self.programs.user.pw_uid if self.programs.user else os.geteuid()
        if place.is_symlink() or place.stat().st_uid not in (owner, os.geteuid()):
            raise SetupError(f"the socket folder {place} belongs to somebody else: remove it, or choose a shorter --data")
        place.chmod(0o700)
        self.programs.give(place)
        for stale in place.glob(".s.PGSQL.*"):  # of a killed server, whose number may be another's or a zombie's by now
            stale.unlink()

    def _try_to_start(self, options: str) -> tuple[int, str]:
        """The exit code, and what pg_ctl and the server added to the log."""
        output = os.open(self.log, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(output).st_size
            arguments = ("start", "-w", "-t", f"{_START_S:.0f}", "-o", options)
            code = self.programs.run("pg_ctl", *arguments, data=self.data, output=output).code
            return code, os.pread(output, _LOG_LIMIT_BYTES, before).decode(errors="replace").strip()
        finally:
            os.close(output)

    def _start_failed(self, said: str) -> SetupError:
        if "No space left on device" in said:
            return full(self.folder)
        last = "\n  ".join(said.splitlines()[-8:])
        return SetupError(f"PostgreSQL did not start on {self.data}; the end of its log, {self.log}:\n  {last}")


def socket_folder(folder: Path) -> Path:
    """`folder`/run, or where its path would be too long for a socket, a folder with the temporary files."""
    near = folder / "run"
    if len(os.fsencode(near / _SOCKET_NAME)) < _SOCKET_LIMIT_BYTES:
        return near
    return Path(tempfile.gettempdir()) / f"wq-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def make_cluster(cluster: Cluster, password: str) -> None:
    """Makes the data directory; it is there whole or not at all. The password goes to a file that only we may read."""
    folder = cluster.folder
    unfinished, handed_over = folder / "data.unfinished", folder / "password.handed-over"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    _write_secret(folder / "password", password)
    _write_secret(handed_over, password)
    cluster.programs.give(unfinished, handed_over)
    options = ["-D", str(unfinished), "-U", USER, f"--pwfile={handed_over}", "--auth=scram-sha-256", "--encoding=UTF8"]
    options += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums", "--no-instructions"]
    made = cluster.programs.run("initdb", *options, *(() if cluster.fsync else ("--no-sync",)))
    handed_over.unlink()
    if made.code != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        if "No space left on device" in made.said:
            raise full(folder)
        last = "\n  ".join(made.said.splitlines()[-8:])
        raise SetupError(f"PostgreSQL could not make its data directory in {folder}:\n  {last}")
    unfinished.rename(cluster.data)


def read_password(cluster: Cluster) -> str:
    """The password that the data directory was made with."""
    path = cluster.folder / "password"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SetupError(
            f"the password of the data in {cluster.folder} cannot be read ({error.strerror}): restore {path}"
        ) from error


def full(folder: Path) -> SetupError:
    """The error of a disk without room, with how much is free and where."""
    free = shutil.disk_usage(folder).free
    return SetupError(
        f"the disk that holds {folder} is full: only {free // 2**20} MiB are free:"
        " make room, or choose another data directory with --data"
    )


def must_be_ours(data: Path) -> None:
    """Raises the SetupError that says why this data directory cannot be served: another version, another user, no data."""
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except PermissionError:
        raise SetupError(
            f"{data} belongs to the user with the number {data.stat().st_uid}: start as that one, or choose another"
            " data directory with --data"
        ) from None
    except OSError as error:
        raise SetupError(f"{data} is no PostgreSQL data directory ({error.strerror}): choose another one with --data") from error
    if version != VERSION:
        raise SetupError(
            f"the data in {data} is of PostgreSQL {version}, this one is {VERSION}: bring it over with pg_upgrade,"
            " or choose another data directory with --data"
        )


def is_alive(pid: int, folder: Path) -> bool:
    """Whether this process is a server of the data below `folder`: PostgreSQL works inside it. Where root may not look there (a
    container without CAP_SYS_PTRACE) its arguments tell; where the system cannot tell at all, any process will do."""
    process = Path("/proc") / str(pid)
    try:
        if not Path("/proc/self/cwd").exists():
            os.kill(pid, 0)
            return True
        return (process / "cwd").samefile(folder / "data")
    except PermissionError:
        return _has_sockets_in(socket_folder(folder), process)
    except OSError:
        return False


def _has_sockets_in(place: Path, process: Path) -> bool:
    try:
        return f"{_SOCKETS}={place}".encode() in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secret)
        file.flush()
        os.fsync(handle)
