"""The embedded PostgreSQL is started again when it dies, is never left half started, and no stranger is ever hurt."""

import asyncio
import os
import shutil
import signal
from functools import partial
from typing import NamedTuple

import psutil
import psycopg
import pytest

from mesh.adapters.embedded_postgres import EmbeddedPostgres, embedded_postgres, end_server, find_server
from mesh.adapters.postgres_watch import PostgresWatch
from mesh.clock import SystemClock
from mesh.errors import Unavailable
from mesh.stages import Progress
from tests.engines import reachable_folder
from tests.flows.process import eventually


async def answers(server: EmbeddedPostgres) -> bool:
    async with await psycopg.AsyncConnection.connect(server.dsn("postgres")) as connection:
        row = await (await connection.execute("SELECT 1")).fetchone()
    return row == (1,)


def died(pid: int) -> bool:
    return not psutil.pid_exists(pid) or bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


async def test_a_server_that_died_is_started_again_also_when_the_watch_is_cancelled_meanwhile() -> None:
    with reachable_folder() as folder:
        async with embedded_postgres(folder, fsync=False) as server:
            progress = Progress("database")
            for cancelled in (False, True):
                dead = server.pid
                os.kill(dead, signal.SIGKILL)
                await eventually(partial(died, dead), 10, lambda: "it lives on")
                watching = asyncio.create_task(PostgresWatch(server, progress, SystemClock()).run())
                await eventually(lambda: "has died; it is started again" in progress.problem, 10, lambda: progress.problem)
                if not cancelled:
                    await eventually(lambda: progress.problem == "", 30, lambda: progress.problem)
                    assert server.pid != dead
                    assert await answers(server)
                watching.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await watching
            half_started = find_server(folder).pid
            assert not died(half_started)  # its start was finished, so that it can be stopped
        assert died(half_started)


async def test_on_a_full_disk_it_is_not_even_tried_and_a_nearly_full_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 0
    with reachable_folder() as folder:
        async with embedded_postgres(folder, fsync=False) as server:
            progress = Progress("database")
            watch = PostgresWatch(server, progress, SystemClock())
            monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - free, free))
            watching = asyncio.create_task(watch.run())
            await eventually(lambda: "only 0 MiB are free" in progress.problem, 10, lambda: progress.problem)
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(Unavailable, match=r"PostgreSQL has died and its disk is full: .*make room: it is started again"):
                await watching


async def test_ending_a_server_at_once_ends_it_and_nobody_else() -> None:
    with reachable_folder() as folder:
        end_server(folder)  # there is none
        async with embedded_postgres(folder, fsync=False) as server:
            end_server(folder)
            await eventually(partial(died, server.pid), 10, lambda: "it lives on")
        stranger = await asyncio.create_subprocess_exec("sleep", "600")
        (folder / "data" / "postmaster.pid").write_text(f"{stranger.pid}\n")
        end_server(folder)
        assert not died(stranger.pid)
        stranger.terminate()
        await stranger.wait()
