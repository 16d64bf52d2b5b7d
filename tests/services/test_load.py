"""A load generator that we did not write streams batches to a real server, and none of its calls fails."""

import asyncio
import json
from pathlib import Path
from typing import Any

from ingest_svc.service import NAME
from ingest_svc.wiring import wire_accept
from mesh.adapters.postgres_log import PostgresLog
from mesh.clock import SystemClock
from mesh.server import make_server
from mesh.settings import Settings
from mesh.topics import ACCEPTED
from tests.programs import program

CALLS = 60
BATCHES = 20
MEASURED_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
OPENING = {"open": {"gateway_id": "ghz-{{.WorkerID}}", "region": "north"}}


def batch(sequence: int) -> dict[str, Any]:
    """Two readings in JSON, as ghz takes them."""
    times = [str(MEASURED_US + sequence), str(MEASURED_US + sequence)]
    return {
        "batch": {"sequence": str(sequence), "readings": {"sensor_id": ["1", "2"], "measured_at_us": times, "ph": [7.1, 7.2]}}
    }


async def test_ghz_streams_without_an_error(postgres_log: PostgresLog, tmp_path: Path) -> None:
    ghz = program("ghz")
    frames = tmp_path / "frames.json"
    frames.write_text(json.dumps([OPENING, *(batch(sequence) for sequence in range(1, BATCHES + 1))]))
    accepting = wire_accept(Settings(), postgres_log, SystemClock())
    server = make_server("127.0.0.1", 0, [NAME])
    server.grpc.add_generic_rpc_handlers((accepting.service.handler(),))
    await server.start()
    arguments = ["--insecure", "--call", f"{NAME}/StreamBatches", "--total", str(CALLS), "--concurrency", "6", "--format", "json"]
    process = await asyncio.create_subprocess_exec(
        ghz, *arguments, "--data-file", str(frames), f"127.0.0.1:{server.port}", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(100):
        output, _ = await process.communicate()
    await server.stop(0)
    report = json.loads(output)
    assert report["statusCodeDistribution"] == {"OK": CALLS}, report.get("errorDistribution")
    ends = await postgres_log.ends([ACCEPTED])
    assert sum(end.next - end.first for end in ends.values()) == CALLS * BATCHES
