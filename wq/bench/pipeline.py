"""`wq bench pipeline`: readings of many gateways through the whole embedded system, beside a raw COPY of the same rows."""

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psycopg
from google.protobuf.duration_pb2 import Duration
from waterquality.v1 import ledger_pb2, ledger_pb2_grpc

from mesh.adapters.embedded_postgres import find_server
from mesh.errors import Fault
from mesh.gateway import Gateway, GatewaySettings
from query_svc.copy import COPY_COLUMNS, HEADER, TRAILER, copy_rows
from query_svc.tables import VALUE_COLUMNS
from water.parameter import PARAMETERS
from water.readings import Readings
from wq.bench.server import Server, running_server
from wq.connect import open_aio_channel

MILLION = 1_000_000
REGION = "bench"
REFERENCE_ROWS = 500_000
COPY_EVERY = 20_000
START_US = 1_767_225_600_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: `sensors` sensors, shared by the gateways, report in turn, `period_s` apart."""

    readings: int
    sensors: int
    gateways: int
    batch: int
    period_s: float = 10.0

    def batch_of(self, gateway: int, number: int, values: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Readings:
        """The number-th batch of a gateway; natural keys never repeat."""
        own = self.sensors // self.gateways
        at = number * self.batch + np.arange(self.batch)
        sensor_id = 1 + gateway * own + at % own
        measured_at_us = START_US + at // own * round(self.period_s * 1e6)
        return Readings(sensor_id.astype(np.int64), measured_at_us.astype(np.int64), values)


@dataclass(slots=True)
class Result:
    """Rates are readings a second; `readings_per_s` counts until all stages had passed everything and the ledger agreed."""

    bench: str
    readings: int
    sensors: int
    gateways: int
    batch: int
    seconds: float
    readings_per_s: float
    acknowledged_per_s: float
    raw_copy_rows_per_s: float
    ratio_to_raw_copy: float
    mesh_cpu_s: float
    postgres_cpu_s: float
    client_cpu_s: float
    rss_bytes_at_million: dict[str, int]
    balanced: bool


async def bench_pipeline(load: Load, parent: Path | None = None) -> Result:
    """Measures on a fresh system in a temporary folder. Raises Fault when the ledger does not balance."""
    async with running_server(parent) as server:
        memory: dict[str, int] = {}
        cpu = (server.cpu_s(), server.postgres_cpu_s(), time.process_time())
        begun = time.perf_counter()
        acknowledged_s = await _send(load, server, memory, begun)
        stored, balanced = await _caught_up(server, load)
        seconds = time.perf_counter() - begun
        used = (server.cpu_s() - cpu[0], server.postgres_cpu_s() - cpu[1], time.process_time() - cpu[2])
        if not balanced or stored != load.readings:
            raise Fault(f"sent {load.readings} readings, the ledger has {stored} stored, balanced: {balanced}")
        memory["end"] = server.rss_bytes()
        reference = await _raw_copy(server, load)
    rate = load.readings / seconds
    mesh_cpu_s, postgres_cpu_s, client_cpu_s = (round(seconds, 2) for seconds in used)
    return Result(
        bench="pipeline",
        readings=load.readings,
        sensors=load.sensors,
        gateways=load.gateways,
        batch=load.batch,
        seconds=round(seconds, 3),
        readings_per_s=round(rate),
        acknowledged_per_s=round(load.readings / acknowledged_s),
        raw_copy_rows_per_s=round(reference),
        ratio_to_raw_copy=round(rate / reference, 3),
        mesh_cpu_s=mesh_cpu_s,
        postgres_cpu_s=postgres_cpu_s,
        client_cpu_s=client_cpu_s,
        rss_bytes_at_million=memory,
        balanced=balanced,
    )


def as_plain(result: Result) -> dict[str, object]:
    """For --json."""
    return asdict(result)


async def _send(load: Load, server: Server, memory: dict[str, int], begun: float) -> float:
    """Seconds until everything was acknowledged."""
    handed_over = 0
    values = _values(load.batch)

    async def one(number: int) -> None:
        nonlocal handed_over
        settings = GatewaySettings(server.target, f"bench-{number}", REGION, load.batch, buffer_readings=64 * load.batch)
        async with Gateway(settings) as gateway:
            for index in range(load.readings // load.batch // load.gateways):
                await gateway.send(load.batch_of(number, index, values[index % len(values)]))
                before, handed_over = handed_over, handed_over + load.batch
                if handed_over // MILLION > before // MILLION:
                    memory[str(handed_over // MILLION)] = server.rss_bytes()
            await gateway.flush(600)

    async with asyncio.TaskGroup() as tasks:
        for number in range(load.gateways):
            tasks.create_task(one(number))
    return time.perf_counter() - begun


def _values(batch: int) -> list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    chance = np.random.default_rng(1)
    typical = np.array([7.4, 3.0, 14.0, 9.0, 420.0, 0.4, 650.0, 1200.0])[:, None]
    grid = np.array([parameter.resolution for parameter in PARAMETERS])[:, None]
    wander = 1 + 0.01 * chance.standard_normal((8, len(PARAMETERS), batch))
    return list((np.round(typical * wander / grid) * grid).astype(np.float32))


async def _caught_up(server: Server, load: Load) -> tuple[int, bool]:
    async with open_aio_channel(server.target) as channel:
        request = ledger_pb2.GetLedgerRequest(wait_duration=Duration(seconds=300))
        answer = await ledger_pb2_grpc.LedgerServiceStub(channel).GetLedger(request, timeout=310)
    return sum(entry.stored_count for entry in answer.entries), answer.caught_up and answer.balanced


async def _raw_copy(server: Server, load: Load) -> float:
    """Rows a second of nothing but binary COPY of the same kind of rows, sorted, into one plain table with the same key, on
    the same PostgreSQL, in transactions of 20,000, over one connection."""
    rows = max(COPY_EVERY, min(load.readings, REFERENCE_ROWS) // COPY_EVERY * COPY_EVERY)
    values = _values(COPY_EVERY)[0]
    whole = Load(rows, load.sensors, 1, COPY_EVERY)
    columns = ", ".join(f"{name} real" for name in VALUE_COLUMNS)
    create = (
        f"CREATE TABLE reference (sensor_id bigint, timestamp timestamptz, {columns}, flags bigint, region varchar(20), "
        "PRIMARY KEY (sensor_id, timestamp))"
    )
    into = f"COPY reference ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"
    dsn = find_server(server.data / "postgres").dsn("postgres")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(create)
        begun = time.perf_counter()
        for number in range(rows // COPY_EVERY):
            readings = whole.batch_of(0, number, values).with_flags(np.full(COPY_EVERY, 0x11111111, np.uint64))
            readings = readings.take(np.lexsort((readings.measured_at_us, readings.sensor_id)))
            async with connection.cursor() as cursor, cursor.copy(into) as copy:
                await copy.write(HEADER + copy_rows(readings, np.full(COPY_EVERY, REGION.encode())) + TRAILER)
        seconds = time.perf_counter() - begun
        await connection.execute("DROP TABLE reference")
    return rows / seconds
