"""Laws 1, 2 and 4 under kill -9: of the process, and of the process and its database, in the middle of a replay."""

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mesh.gateway import Gateway, GatewaySettings
from tests.engines import reachable_folder
from tests.flows.process import System, free_port
from tests.flows.reading_back import assert_same_rows, first_of_each_key, read_back, settled_ledger
from water.readings import Readings, concatenate
from wq.formats.station import StationFile

KILLS = int(os.environ.get("WQ_KILLS", "5"))
DATA = Path(__file__).parents[2].parent / "shared" / "data"
FILES = ("gecco/gecco2018_train.csv.gz", "nerrs/cat_point_2012_2013.csv.gz", "logan_river/FranklinBasin2020.csv.gz")
SENSORS = [100, 101, 110, 120]
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def systems() -> Iterator[tuple[System, System]]:
    """One to be disturbed, one not."""
    with reachable_folder() as folder:
        pair = tuple(System(folder / name / "data", free_port()) for name in ("disturbed", "undisturbed"))
        for system in pair:
            system.data.parent.mkdir()
        try:
            yield pair  # type: ignore[misc]
        finally:
            for system in pair:
                system.clean_up()


async def test_a_replay_killed_again_and_again_stores_what_an_undisturbed_one_does(systems: tuple[System, System]) -> None:
    disturbed, undisturbed = systems
    pieces = list(_pieces())
    await undisturbed.start()
    await _replay(undisturbed, pieces, [])
    undisturbed_sums = await settled_ledger(undisturbed.target)
    expected = await read_back(undisturbed.target, SENSORS)
    assert undisturbed_sums.stored == len(expected)
    assert await undisturbed.stop() == 0

    chance = random.Random(20261123)
    moments = sorted(chance.uniform(0.02, 0.95) for _ in range(KILLS))
    await disturbed.start()
    await _replay(disturbed, pieces, moments)
    sums = await settled_ledger(disturbed.target)
    found = await read_back(disturbed.target, SENSORS)

    sent = concatenate(pieces)
    truth = first_of_each_key(sent)
    np.testing.assert_array_equal(found.sensor_id, truth.sensor_id)
    np.testing.assert_array_equal(found.measured_at_us, truth.measured_at_us)
    np.testing.assert_array_equal(found.values, truth.values)
    assert_same_rows(found, expected)
    assert (sums.stored, sums.dead) == (len(found), 0)
    assert sums.accepted >= len(sent) - int(np.isnan(sent.values).all(axis=0).sum())


def _pieces() -> Iterator[Readings]:
    for sensor_id, name in zip((100, 110, 120), FILES, strict=True):
        with StationFile(DATA / name, None, sensor_id) as station:
            yield from station.readings()


async def _replay(system: System, pieces: list[Readings], moments: list[float]) -> None:
    """Streams everything; each time the acknowledged share passes a moment, the process is killed and started again, every
    second time with its database."""
    total = sum(len(piece) for piece in pieces)
    acknowledged = 0
    changed = asyncio.Event()

    def count(readings: int) -> None:
        nonlocal acknowledged
        acknowledged += readings
        changed.set()

    async def kill() -> None:
        for number, moment in enumerate(moments):
            while acknowledged < moment * total:
                changed.clear()
                await changed.wait()
            await asyncio.to_thread(system.kill, database_too=number % 2 == 1)
            await system.start()

    settings = GatewaySettings(system.target, "replay-1", "north", ack_timeout_s=10, buffer_readings=100_000)
    async with (
        Gateway(settings, on_ack=lambda ack: count(ack.readings)) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(kill())
        for piece in pieces:
            await gateway.send(piece)
        await gateway.flush(600)
