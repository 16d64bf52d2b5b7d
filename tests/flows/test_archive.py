"""The archive from end to end: objects that anybody can read, and another deployment that is made from them."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from mesh.gateway import Gateway, GatewaySettings
from tests.engines import reachable_folder
from tests.flows.archive import by_duckdb, by_pyarrow, losers, objects_of
from tests.flows.process import System, eventually, free_port
from tests.flows.reading_back import assert_same_rows, read_back, settled_ledger
from tests.flows.truth import DATA, truth_of
from water.readings import Readings

pytestmark = pytest.mark.timeout(600)
LAKES = (DATA / "epa_buoys" / "archer_2024.csv.gz", DATA / "epa_buoys" / "mashapaug_2025.csv.gz")
RIVERS = (DATA / "logan_river" / "TonyGrove2014.csv.gz",)


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    with reachable_folder() as path:
        yield path


async def wq(*words: str, code: int = 0) -> str:
    """What the command prints to stdout; it must end with this code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wq", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    return out.decode()


async def replay(system: System, region: str, sensor_id: int, *files: Path) -> None:
    words = ("--region", region, "--sensor-id", str(sensor_id), "--gateway", f"of-{region}", "--target", system.target)
    await wq("replay", *map(str, files), *words)


async def losing(system: System) -> None:
    """Another gateway sends the keys of a lake again with another temperature, so that all of them lose."""
    readings = truth_of(LAKES[0], 1)
    readings = readings.take(np.flatnonzero(~np.isnan(readings.values).all(axis=0)))
    values = readings.values.copy()
    values[2] = 42.0
    async with Gateway(GatewaySettings(system.target, "of-elsewhere", "elsewhere")) as gateway:
        await gateway.send(Readings(readings.sensor_id, readings.measured_at_us, values))
        await gateway.flush(60)


async def test_objects_hold_what_the_shards_hold_and_another_deployment_is_made_from_them(folder: Path) -> None:
    (folder / "first").mkdir()
    (folder / "second").mkdir()
    source = System(folder / "first" / "data", free_port())
    archives = {"WQ_ARCHIVES": f"first={folder / 'first' / 'data' / 'objects'}"}
    target = System(folder / "second" / "data", free_port(), environment=archives)
    try:
        await source.start()
        await replay(source, "lakes", 1, *LAKES)
        await replay(source, "rivers", 21, *RIVERS)
        await losing(source)
        await settled_ledger(source.target)
        sensors = [1, 11, 21]
        original = await read_back(source.target, sensors)
        assert len(await losers(source)) > 1000
        paths = {tuple(path.relative_to(source.objects).parts[1:5]) for path in objects_of(source)}
        assert len(paths) >= 30
        assert {region for region, *_ in paths} == {"lakes", "rivers", "elsewhere"}
        assert_same_rows(await by_pyarrow(source), original)
        assert_same_rows(await by_duckdb(source), original)
        checked = json.loads(await wq("archive", "verify", "--target", source.target, "--json"))
        await _exported(source)

        await target.start()
        await wq("archive", "restore", "--source", "first", "--target", target.target)
        assert_same_rows(await read_back(target.target, sensors), original)
        await wq("archive", "restore", "--source", "first", "--target", target.target)
        target.kill()
        await target.start()
        assert_same_rows(await read_back(target.target, sensors), original)
        again = json.loads(await wq("archive", "verify", "--target", target.target, "--json"))
        assert again["checked_count"] == checked["checked_count"] == len(objects_of(source))
    finally:
        source.clean_up()
        target.clean_up()


async def _exported(system: System) -> None:
    """Waits until every conflicting reading is in the objects beside the manifest."""
    wanted = len(await losers(system))
    await eventually(lambda: _lines(system) >= wanted, 60, lambda: f"{_lines(system)} of {wanted} are exported")


def _lines(system: System) -> int:
    found = (system.objects / "manifest").glob("*/conflicts/*/*.jsonl")
    return sum(len(path.read_bytes().splitlines()) for path in found)
