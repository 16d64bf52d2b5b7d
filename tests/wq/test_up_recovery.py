"""`wq up` when things die: the process, its database, its disk. It heals by itself or says what to do, and nothing is lost."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from waterquality.v1 import ingest_pb2, ingest_pb2_grpc

from mesh.adapters.embedded_postgres import find_server
from mesh.codec.columns import write_columns
from mesh.gateway import Gateway, GatewaySettings
from tests.builders import START_US, a_reading, some_readings
from tests.flows.process import System, as_root, eventually
from tests.flows.reading_back import read_back, settled_ledger
from tests.wq.small_disk import fill, may_mount, small_disk

SENSORS = 50
PIECE = 100
PIECE_US = 20_000_000  # two readings of each sensor, ten seconds apart
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--")
WITHOUT_PTRACE = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", "--")
for_root = pytest.mark.skipif(not as_root(), reason="only root lends PostgreSQL another user")


@dataclass(slots=True)
class Streaming:
    """A gateway that streams piece after piece until the block ends."""

    gateway: Gateway
    sent: int = 0

    async def send(self, pieces: int) -> None:
        for _ in range(pieces):
            start = START_US + self.sent // PIECE * PIECE_US
            await self.gateway.send(some_readings(PIECE, sensors=SENSORS, seed=self.sent, start=start))
            self.sent += PIECE

    async def gets_through(self, readings: int) -> None:
        """So many more are acknowledged."""
        wanted = self.gateway.statistics.acknowledged + readings
        await eventually(
            lambda: self.gateway.statistics.acknowledged >= wanted, 40, lambda: f"stuck: {self.gateway.statistics.last_error}"
        )


@asynccontextmanager
async def streaming(system: System) -> AsyncIterator[Streaming]:
    """On leaving, everything is acknowledged, stored once, and the ledger balances."""
    settings = GatewaySettings(system.target, "gateway-1", "north", buffer_readings=5_000, max_batch_readings=PIECE)
    async with Gateway(settings) as gateway:
        stream = Streaming(gateway)
        ending = asyncio.Event()

        async def go_on() -> None:
            while not ending.is_set():
                await stream.send(1)
                await asyncio.sleep(0.02)

        going = asyncio.create_task(go_on())
        try:
            yield stream
            ending.set()
            await going
            await gateway.flush(60)
        finally:
            going.cancel()
    sums = await settled_ledger(system.target)
    found = await read_back(system.target, list(range(1, SENSORS + 1)))
    assert sums.stored == len(found) == stream.sent
    assert (sums.refused, sums.conflicting, sums.dead) == (0, 0, 0)


async def test_after_a_kill_the_next_start_adopts_the_database_or_starts_it_and_has_everything(system: System) -> None:
    await system.start()
    async with streaming(system) as stream:
        await stream.gets_through(1_000)
    postgres = system.postmaster()
    system.kill()
    assert (system.data / "endpoint.json").exists()
    code, said = await run(sys.executable, "-m", "wq", "status", WQ_DATA=str(system.data))
    assert code == 1
    assert "is the mesh running there?" in said

    await system.start()
    assert system.postmaster() == postgres
    assert (await settled_ledger(system.target)).stored == stream.sent
    system.kill(database_too=True)
    await system.start()
    assert system.postmaster() != postgres
    assert (await settled_ledger(system.target)).stored == stream.sent
    assert await system.stop() == 0
    assert system.postmaster() is None


async def test_a_database_that_dies_is_started_again_and_what_was_not_acknowledged_is_sent_again(system: System) -> None:
    await system.start()
    async with streaming(system) as stream:
        await stream.gets_through(500)
        configuration = system.data / "postgres" / "data" / "postgresql.conf"
        hidden = configuration.rename(configuration.with_suffix(".hidden"))  # so that it cannot come back at once
        postgres = system.postmaster()
        assert postgres is not None
        postgres.kill()
        await system.says("problem: PostgreSQL did not start")
        await refuses_for_now(system.target)
        hidden.rename(configuration)
        await system.says("PostgreSQL runs again")
        await stream.gets_through(2_000)
    assert stream.gateway.statistics.reconnects
    assert "Traceback" not in system.output()
    assert await system.stop() == 0


async def test_a_stop_without_a_database_says_that_it_cannot_tell_what_was_stored(system: System) -> None:
    await system.start()
    configuration = system.data / "postgres" / "data" / "postgresql.conf"
    configuration.rename(configuration.with_suffix(".hidden"))
    postgres = system.postmaster()
    assert postgres is not None
    postgres.kill()
    await system.says("PostgreSQL has died")
    assert await system.stop() == 1
    assert "stopped, but what was stored cannot be told: PostgreSQL" in system.output()
    assert "nothing acknowledged is lost: the next start goes on" in system.output()
    assert "Traceback" not in system.output()


async def test_a_process_of_the_database_that_dies_costs_its_sessions_and_nothing_else(system: System) -> None:
    await system.start()
    async with streaming(system) as stream:
        await stream.gets_through(500)
        postgres = system.postmaster()
        assert postgres is not None
        writer = next(child for child in postgres.children() if "checkpointer" in " ".join(child.cmdline()))
        writer.kill()
        await eventually(lambda: stream.gateway.statistics.reconnects, 30, lambda: system.output()[-2000:])
        await stream.gets_through(2_000)
    assert system.postmaster() == postgres
    assert await system.stop() == 0


async def run(*command: str | Path, **environment: str) -> tuple[int, str]:
    """The exit code of a command, and what it said."""
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT, env=os.environ | environment)
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode(errors="replace")


async def refuses_for_now(target: str) -> None:
    """SubmitBatch answers UNAVAILABLE and when to try again."""
    async with grpc.aio.insecure_channel(target) as channel:
        opening = ingest_pb2.StreamOpen(gateway_id="other", region="north")
        request = ingest_pb2.SubmitBatchRequest(open=opening, readings=write_columns(a_reading(SENSORS + 1)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ingest_pb2_grpc.IngestServiceStub(channel).SubmitBatch(request, timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    status = rpc_status.from_call(caught.value)
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMicroseconds() > 0


@pytest.mark.skipif(not may_mount(), reason="only root may make a small disk, and not everywhere")
async def test_a_full_disk_stops_acknowledgements_until_there_is_room_even_if_postgres_died_of_it(
    new_system: System, left_in_order: Path
) -> None:
    system = new_system
    with small_disk(system.data.parent / "disk", 750) as disk:
        system.data = disk / "data"
        await run("cp", "-a", left_in_order, system.data)
        await system.start()
        async with streaming(system) as stream:
            await stream.gets_through(500)
            fill(disk / "ballast")
            await eventually(lambda: stream.gateway.statistics.reconnects, 30, lambda: system.output()[-2000:])
            assert "No space left on device" in stream.gateway.statistics.last_error
            await system.says("make room before PostgreSQL stops")
            (disk / "ballast").unlink()
            await stream.gets_through(1_000)

            fill(disk / "ballast")
            await asyncio.to_thread(use_up_the_wal, system)
            await system.says("problem: PostgreSQL has died and its disk is full: only 0 MiB are free")
            await refuses_for_now(system.target)
            assert system.process is not None
            assert system.process.poll() is None
            (disk / "ballast").unlink()
            await system.says("PostgreSQL runs again")
            await stream.gets_through(1_000)
        assert "Traceback" not in system.output()
        assert await system.stop() == 0


def use_up_the_wal(system: System) -> None:
    """Until PostgreSQL needs a new segment of its log, finds no room for it, and panics."""
    server = find_server(system.data / "postgres")
    with suppress(psycopg.OperationalError), psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        while True:
            connection.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 100)), pg_switch_wal()")


@for_root
@pytest.mark.parametrize("prefix", [AS_NOBODY, WITHOUT_PTRACE], ids=["an ordinary user", "root in a container"])
async def test_it_starts_adopts_and_stops_whoever_starts_it(
    new_system: System, left_in_order: Path, prefix: tuple[str, ...]
) -> None:
    code, said = await run(*prefix, sys.executable, "-c", "import wq.up")
    if code:
        pytest.skip(f"{' '.join(prefix)} cannot run this Python: {said[-300:]}")
    system = new_system
    system.prefix = prefix
    await run("cp", "-a", left_in_order, system.data)
    if prefix == AS_NOBODY:
        await run("chown", "-R", "nobody:nogroup", system.data)
    await system.start()
    async with streaming(system) as stream:
        await stream.gets_through(500)
    postgres = system.postmaster()
    system.kill()
    await system.start()
    assert system.postmaster() == postgres
    assert (await settled_ledger(system.target)).stored == stream.sent
    assert await system.stop() == 0
    assert system.postmaster() is None
