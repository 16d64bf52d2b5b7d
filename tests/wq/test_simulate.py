"""`wq simulate` as a person runs it, and the runs behind it, against a server that counts."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from typer.testing import CliRunner

from mesh.clock import SystemClock
from mesh.errors import Conflict, Unavailable, WaterError
from mesh.settings import Settings
from tests.gateway.mesh_peer import MeshPeer, ServedStream, serve_all
from tests.gateway.quick import until
from tests.wq.counting_mesh import CountingMesh
from wq.cli import app
from wq.demo import stream_fleet
from wq.fleet import FleetRun
from wq.fleet_sensors import Fleet, FleetSettings
from wq.scenarios import Course, Scenario

SMALL = FleetSettings(gateways=2, sensors=12, period_s=0.05)


@pytest.fixture
def mesh() -> Iterator[CountingMesh]:
    """An honest one."""
    with CountingMesh() as mesh:
        yield mesh


def a_run(target: str, scenario: Scenario = Scenario.NORMAL, duration_s: float = 1.0, history_s: float = 0.0) -> FleetRun:
    clock = SystemClock()
    fleet = Fleet(SMALL, Course(scenario, clock.now_us(), round(duration_s * 1e6)))
    return FleetRun(fleet, target, clock, random.Random(1), round(history_s * 1e6))


def test_everything_that_was_handed_over_arrives_and_is_counted(mesh: CountingMesh) -> None:
    words = "--gateways 2 --sensors 20 --period 100ms --duration 1s --region north --region south --json --target"
    result = CliRunner().invoke(app, ["simulate", *words.split(), mesh.target])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["handed_over_count"] == answer["accepted_count"] == answer["transmitted_count"] == len(mesh.readings) > 100
    assert [(row["gateway_id"], row["region"]) for row in answer["gateways"]] == [
        ("simulated-1", "north"),
        ("simulated-2", "south"),
    ]
    assert sum(row["accepted_count"] for row in answer["gateways"]) == answer["accepted_count"]
    assert answer["refused"] == []
    assert set(np.unique(mesh.readings.sensor_id).tolist()) == set(range(2_000_000_001, 2_000_000_021))


def test_a_second_run_goes_on_at_the_present_time(mesh: CountingMesh) -> None:
    options = "--gateways 1 --sensors 2 --period 50ms --duration 500ms --target"
    words = ["simulate", *options.split(), mesh.target]
    assert CliRunner().invoke(app, words).exit_code == 0
    first = mesh.readings
    assert CliRunner().invoke(app, words).exit_code == 0
    assert mesh.counts["stored"] == len(mesh.readings) > len(first)
    assert mesh.readings.measured_at_us[len(first) :].min() > first.measured_at_us.max()


def test_people_get_a_table(mesh: CountingMesh) -> None:
    words = "--gateways 2 --sensors 4 --period 100ms --duration 300ms --target"
    result = CliRunner().invoke(app, ["simulate", *words.split(), mesh.target])
    assert result.exit_code == 0, result.output
    assert "simulated-2" in result.stdout
    assert "accepted" in result.stdout


def test_nobody_there_is_said_at_once() -> None:
    result = CliRunner().invoke(app, ["simulate", "--target", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "nothing answers at 127.0.0.1:1" in result.output


@pytest.mark.parametrize(
    ("words", "problem"),
    [("--sensors 2 --gateways 3", "at least one for each gateway"), ("--period 0s", "period_s"), ("--duration x", "no duration")],
)
def test_an_impossible_fleet_is_refused_with_the_mend(mesh: CountingMesh, words: str, problem: str) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["simulate", *words.split(), "--target", mesh.target])
    assert result.exit_code in (1, 2)
    assert problem in result.output


def test_ctrl_c_ends_the_run_in_order(mesh: CountingMesh) -> None:
    words = ["simulate", "--period", "50ms", "--json", "--target", mesh.target]
    process = subprocess.Popen([sys.executable, "-m", "wq", *words], stdout=subprocess.PIPE, env=os.environ)
    assert mesh.has_batches.wait(30)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    answer = json.loads(stdout)
    assert answer["handed_over_count"] == answer["acknowledged_count"] == len(mesh.readings) > 0


async def test_a_backlog_goes_through_the_backfill_lane_beside_live_readings() -> None:
    async with MeshPeer() as peer:
        statistics = await a_run(peer.target, history_s=60).run(0.5)
        lanes = {stream.opening.backfill for stream in peer.streams}
        assert lanes == {False, True}
        stored = [batch for stream in peer.streams if stream.opening.backfill for batch in stream.batches]
        assert sum(map(len, stored)) == statistics.all.backfilled == 12 * 60 * 20
        assert statistics.all.acknowledged == statistics.all.handed_over > statistics.all.backfilled
        assert peer.breaches == []


async def test_a_gateway_that_was_away_sends_what_it_stored_and_no_reading_is_missing() -> None:
    async with MeshPeer() as peer:
        statistics = await a_run(peer.target, Scenario.OUTAGE).run(1.0)
        of_first = [stream for stream in peer.streams if stream.opening.gateway_id == "simulated-1"]
        assert [stream.opening.backfill for stream in of_first].count(True) == 1
        times = np.unique(np.concatenate([batch.measured_at_us for stream in of_first for batch in stream.batches]))
        assert (np.diff(times) == 50_000).all(), "no step is missing"
        assert statistics.all.acknowledged == statistics.all.handed_over


async def test_a_fleet_whose_server_breaks_loses_nothing() -> None:
    async def breaks(stream: ServedStream) -> None:
        await stream.open()
        await stream.batch()
        await stream.fail(Unavailable("broken by the test", retry_after_s=0.01))

    async with MeshPeer(breaks, breaks, serve_all) as peer:
        statistics = await a_run(peer.target).run(0.5)
        assert statistics.all.reconnects == 2
        assert statistics.all.acknowledged == statistics.all.handed_over


async def test_the_fleet_of_up_runs_until_it_is_cancelled() -> None:
    async with MeshPeer() as peer:
        task = asyncio.create_task(stream_fleet(peer.target, Settings(fleet_period_s=0.05)))
        await until(lambda: len(peer.streams) == 3 and all(stream.batches for stream in peer.streams), "three gateways streamed")
        assert {stream.opening.gateway_id for stream in peer.streams} == {"fleet-1", "fleet-2", "fleet-3"}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_fleet_of_up_ends_quietly_when_it_is_turned_away() -> None:
    async def turn_away(stream: ServedStream) -> None:
        error: WaterError = Conflict("gateway fleet-1 opened another live stream", reason="NEWER_STREAM")
        await stream.fail(error)

    async with MeshPeer(turn_away) as peer, asyncio.timeout(20):
        await stream_fleet(peer.target, Settings(fleet_period_s=0.05))
