"""`wq probe`: on a live system every path is well, and each path says so when what comes back is not what was written."""

import asyncio
import json
import os
import re
import sys
import urllib.request
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from waterquality.v1 import archive_pb2, ledger_pb2, query_pb2

from mesh.codec.columns import write_flagged
from mesh.errors import Fault
from tests.builders import START_US
from tests.flows.alarms import ask
from tests.flows.process import System, free_port
from tests.wq.answering_mesh import AnsweringMesh
from water.readings import Readings
from wq.probe_paths import Books, Path, Written, aggregate, in_manifest, latest, rows, status, stream
from wq.probe_round import known_readings

EVERY_PATH = {"write", "latest", "list", "stream", "aggregate", "status", "ledger", "archive", "watch"}
FIRST = 9_000_000_001
WRITTEN = Written(known_readings(FIRST, START_US), START_US, "position")


async def probe(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    command = (sys.executable, "-m", "wq", "probe", *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=os.environ | {"NO_COLOR": "1"})
    out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


async def test_one_round_on_a_live_system_finds_every_path_well_and_resolves_its_own_alert(system: System) -> None:
    await system.start()
    code, out, error = await probe("--once", "--json", "--alarms", "--within", "30s", "--target", system.target)
    assert code == 0, out + error
    answer = json.loads(out)
    assert answer["ok"]
    assert answer["paths"].keys() == EVERY_PATH | {"alarm"}
    assert all(path["seconds"] > 0 for path in answer["paths"].values())
    alerts = await ask(system, "SELECT state, severity_level FROM alert.contamination_alerts")
    assert alerts == [(7, 1)], "resolved"
    assert await ask(system, "SELECT 1 FROM alert.rules WHERE rule_id LIKE 'probe-%'") == []

    code, out, _ = await probe("--once", "--backfill", "--gateway", "other", "--target", system.target)
    assert code == 0, "the readings of an earlier probe do not disturb"
    assert re.match(r"20\S+Z  ok  write \d+ ms  latest \d+ ms", out)
    assert "watch" not in out


async def test_it_goes_on_round_after_round_and_exports_metrics(system: System) -> None:
    await system.start()
    port = free_port()
    words = ("--every", "100ms", "--within", "30s", "--metrics-port", str(port), "--target", system.target)
    async with probing(*words) as lines:
        for _ in range(3):
            assert "  ok  " in await anext(lines)
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
            metrics = page.read().decode()
        assert all(f'wq_probe_latency_seconds{{path="{path}"}}' in metrics for path in EVERY_PATH)
        assert 'wq_probe_failures{path="write"} 0.0' in metrics
        system.kill(database_too=True)
        while "FAILED write: " not in await anext(lines):
            pass


async def test_where_nobody_answers_it_ends_with_1() -> None:
    code, _, error = await probe("--once", "--target", f"127.0.0.1:{free_port()}")
    assert code == 1
    assert "is the mesh running there?" in error


@asynccontextmanager
async def probing(*words: str) -> AsyncIterator[AsyncIterator[str]]:
    """Its lines, as they come."""
    command = (sys.executable, "-m", "wq", "probe", *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=os.environ | {"NO_COLOR": "1"})
    assert process.stdout is not None

    async def lines(stdout: asyncio.StreamReader) -> AsyncIterator[str]:
        while line := await stdout.readline():
            yield line.decode()

    try:
        yield lines(process.stdout)
    finally:
        process.terminate()
        await process.wait()


def flagged(readings: Readings) -> Any:
    return write_flagged(readings.with_flags(np.zeros(len(readings), np.uint64)))


def changed(**wrong: Any) -> Readings:
    """The known readings, with something wrong."""
    readings = WRITTEN.readings
    values = readings.values.copy()
    values[0, 1] += wrong.get("ph", 0)
    at_us = readings.measured_at_us + wrong.get("later_us", 0)
    return Readings(readings.sensor_id, at_us, values).take(np.arange(len(readings) - wrong.get("fewer", 0)))


def listed(readings: Readings) -> query_pb2.ListReadingsResponse:
    answer = query_pb2.ListReadingsResponse()
    for index in range(len(readings)):
        row = answer.readings.add(sensor_id=int(readings.sensor_id[index]))
        row.measured_time.FromMicroseconds(int(readings.measured_at_us[index]))
        for number in range(len(readings.values)):
            row.values.add(parameter=number + 1, value=float(readings.values[number, index]))
    return answer


def summed(readings: Readings) -> query_pb2.AggregateReadingsResponse:
    answer = query_pb2.AggregateReadingsResponse()
    for index in range(len(readings)):
        for number in range(len(readings.values)):
            value = float(readings.values[number, index])
            sensor = int(readings.sensor_id[index])
            answer.series.add(sensor_id=sensor, parameter=number + 1, count=[1], min=[value], max=[value])
    return answer


def answers(readings: Readings) -> dict[str, list[Any]]:
    """What every read says of these readings."""
    return {
        "GetLatest": [query_pb2.GetLatestResponse(latest=flagged(readings))],
        "ListReadings": [listed(readings)],
        "StreamReadings": [query_pb2.StreamReadingsResponse(readings=flagged(readings))],
        "AggregateReadings": [summed(readings)],
    }


@pytest.mark.parametrize("path", [latest, rows, stream, aggregate])
async def test_a_path_returns_only_for_what_was_written(path: Path) -> None:
    with AnsweringMesh(**answers(WRITTEN.readings)) as mesh:
        async with grpc.aio.insecure_channel(mesh.target) as channel:
            await path(channel, WRITTEN, 5)
        assert list(mesh.asked[0].freshness.at_least) == ["position"]
    wrongs: list[dict[str, Any]] = [{"ph": 0.01}, {"fewer": 1}]
    if path is not aggregate:
        wrongs.append({"later_us": 1})
    for wrong in wrongs:
        with AnsweringMesh(**answers(changed(**wrong))) as mesh:
            async with grpc.aio.insecure_channel(mesh.target) as channel:
                with pytest.raises(Fault):
                    await path(channel, WRITTEN, 5)


async def test_a_problem_of_a_stage_is_one_of_the_probe() -> None:
    problem = query_pb2.StageStatus(stage="record", problem="shard 1 is away")
    with AnsweringMesh(GetPipelineStatus=[query_pb2.GetPipelineStatusResponse(stages=[problem])]) as mesh:
        async with grpc.aio.insecure_channel(mesh.target) as channel:
            with pytest.raises(Fault, match="record: shard 1 is away"):
                await status(channel, WRITTEN, 5)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"accepted": 14, "stored": 14}, ""),
        ({"accepted": 14, "stored": 13}, "does not have what was written within"),
        ({"accepted": 14, "stored": 14, "duplicate": 1}, "duplicate"),
        ({"accepted": 15, "stored": 14}, "sent 5, written were 4"),
    ],
)
async def test_the_ledger_must_count_each_reading_once(now: dict[str, int], why: str) -> None:
    entries = [
        ledger_pb2.LedgerEntry(gateway_id="g", **{f"{name}_count": count for name, count in counts.items()})  # type: ignore[arg-type]
        for counts in ({"accepted": 10, "stored": 10}, now)
    ]
    pages = [ledger_pb2.GetLedgerResponse(entries=[entry]) for entry in entries]
    with AnsweringMesh(GetLedger=pages) as mesh:
        async with grpc.aio.insecure_channel(mesh.target) as channel:
            books = Books("g", START_US)
            await books.open(channel)
            books.sent = 4
            if not why:
                await books.agree(channel, 5)
            else:
                with pytest.raises(Fault, match=why):
                    await books.agree(channel, 0.5)


async def test_the_manifest_is_asked_for_the_time_and_region_of_the_readings() -> None:
    found = [archive_pb2.ListObjectsResponse(), archive_pb2.ListObjectsResponse(objects=[archive_pb2.ArchiveObject(path="a")])]
    with AnsweringMesh(ListObjects=found) as mesh:
        async with grpc.aio.insecure_channel(mesh.target) as channel:
            assert [await in_manifest(channel, WRITTEN, "probe") for _ in range(2)] == [False, True]
    assert mesh.asked[0].filter.regions == ["probe"]
    assert mesh.asked[0].filter.start_time.ToMicroseconds() == START_US
