"""The main job on real input: every file of ../shared/data goes in over gRPC and comes out of queries, and none is lost."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import psycopg
import pytest
from waterquality.v1 import query_pb2, query_pb2_grpc

from query_svc.tables import VALUE_COLUMNS
from tests.engines import reachable_folder
from tests.flows.archive import by_duckdb, by_pyarrow
from tests.flows.grounds import Ground
from tests.flows.process import System, free_port
from tests.flows.reading_back import Sums, assert_same_rows, read_back, settled_ledger
from tests.flows.truth import FILES, all_truth
from water.parameter import PARAMETERS
from water.readings import Readings

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
async def system(ground: Ground) -> AsyncIterator[System]:
    with reachable_folder() as folder:
        running = System(folder / "data", free_port(), ground=await asyncio.to_thread(ground, folder))
        await running.start()
        try:
            yield running
        finally:
            running.clean_up()


async def test_every_file_is_stored_value_by_value_and_a_repeat_stores_nothing(system: System) -> None:
    truth, sent, without_values = all_truth()
    sensor_ids = np.unique(truth.sensor_id).tolist()

    first = await _replay(system)
    assert (first["balanced"], first["problems"]) == (True, [])
    sums = await settled_ledger(system.target)
    twins = sent - without_values - len(truth)
    assert sums.stored == len(truth)
    assert sums.refused == without_values
    assert sums.duplicate + sums.conflicting == twins

    streamed = await read_back(system.target, sensor_ids)
    _assert_values(streamed, truth)
    _assert_values(await _listed(system.target, sensor_ids), truth)
    _assert_values(await _by_sql(system), truth)
    assert_same_rows(await by_duckdb(system), streamed)
    assert_same_rows(await by_pyarrow(system), streamed)

    await _replay(system)
    again = await settled_ledger(system.target)
    assert again == Sums(2 * sums.accepted, 2 * sums.refused, sums.stored, *_repeated(sums, again, 1), 0)

    await _replay(system, "--backfill")
    once_more = await settled_ledger(system.target)
    assert once_more == Sums(3 * sums.accepted, 3 * sums.refused, sums.stored, *_repeated(sums, once_more, 2), 0)
    assert_same_rows(await read_back(system.target, sensor_ids), streamed)


def _repeated(first: Sums, now: Sums, times: int) -> tuple[int, int]:
    """Every stored reading came again as a duplicate; those that were twins in the file stay what they were."""
    assert now.conflicting == first.conflicting * (times + 1)
    return first.duplicate * (times + 1) + first.stored * times, now.conflicting


async def _replay(system: System, *options: str) -> dict[str, Any]:
    """`wq replay` of all files as a user runs it; its --json."""
    command = [
        sys.executable,
        "-m",
        "wq",
        "replay",
        *map(str, FILES),
        "--region",
        "somewhere",
        "--target",
        system.target,
        "--json",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    content: dict[str, Any] = json.loads(out)
    return content


def _assert_values(found: Readings, truth: Readings) -> None:
    np.testing.assert_array_equal(found.sensor_id, truth.sensor_id)
    np.testing.assert_array_equal(found.measured_at_us, truth.measured_at_us)
    np.testing.assert_array_equal(found.values, truth.values)


async def _listed(target: str, sensor_ids: list[int]) -> Readings:
    """Everything by ListReadings, page after page."""
    sensors: list[int] = []
    times: list[int] = []
    columns: list[list[float]] = []
    request = query_pb2.ListReadingsRequest(filter=query_pb2.ReadingFilter(sensor_ids=sensor_ids), page_size=10_000)
    async with grpc.aio.insecure_channel(target, options=[("grpc.max_receive_message_length", 1 << 26)]) as channel:
        stub = query_pb2_grpc.QueryServiceStub(channel)
        while True:
            page = await stub.ListReadings(request, timeout=60)
            for reading in page.readings:
                row = [float("nan")] * len(PARAMETERS)
                for value in reading.values:
                    assert value.flag, "a value without a flag"
                    row[value.parameter - 1] = value.value
                sensors.append(reading.sensor_id)
                times.append(reading.measured_time.ToMicroseconds())
                columns.append(row)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    return Readings(np.array(sensors), np.array(times), np.array(columns, np.float32).T)


async def _by_sql(system: System) -> Readings:
    """Everything by the public names."""
    query = (
        "SELECT sensor_id, (extract(epoch FROM timestamp) * 1000000)::bigint, "
        + ", ".join(f"coalesce({name}, 'NaN')" for name in VALUE_COLUMNS)
        + " FROM sensor_readings"
    )
    rows: list[tuple[Any, ...]] = []
    for shard in ("shard_0", "shard_1"):
        dsn = system.dsn(shard)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            rows += await (await connection.execute(query)).fetchall()
    rows.sort(key=lambda row: row[:2])
    ids, times, *columns = zip(*rows, strict=True)
    return Readings(np.array(ids), np.array(times), np.array(columns, np.float32))
