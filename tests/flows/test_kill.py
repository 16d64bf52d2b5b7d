"""Laws 1, 2, 4 and 8 under kill -9: of the process, and of the process and its database, in the middle of a replay."""

import asyncio
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
from waterquality.v1.alert_pb2 import CONDITION_KIND_CONTAMINATION as CONTAMINATION
from waterquality.v1.alert_pb2 import CONDITION_KIND_LIMIT as LIMIT
from waterquality.v1.catalog_pb2 import SOURCE_TYPE_MUNICIPAL as MUNICIPAL
from waterquality.v1.catalog_pb2 import SOURCE_TYPE_NATURAL as NATURAL

from mesh.gateway import Gateway, GatewaySettings
from tests.alert.receiver import SECRET, Receiver, receiving
from tests.engines import reachable_folder
from tests.flows.alarms import alarms_at_rest, ask, describe, watched
from tests.flows.grounds import Ground
from tests.flows.process import System, free_port
from tests.flows.reading_back import assert_same_rows, first_of_each_key, read_back, settled_ledger
from tests.flows.truth import FILES as ALL_FILES
from water.readings import Readings, concatenate
from wq.formats.station import StationFile

KILLS = int(os.environ.get("WQ_KILLS", "5"))
SOME = ("gecco2018_train", "cat_point_2012_2013", "FranklinBasin2020")
FILES = [path for path in ALL_FILES if KILLS >= 20 or path.name.removesuffix(".csv.gz") in SOME]
SENSOR_OF = {path: 100 + 10 * number for number, path in enumerate(FILES)}
SOURCES = {
    sensor_id + further: MUNICIPAL if "gecco" in path.name else NATURAL
    for path, sensor_id in SENSOR_OF.items()
    for further in ((0, 1) if "gecco" in path.name else (0,))
}
SENSORS = list(SOURCES)
REGION = "north"
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def systems(ground: Ground) -> Iterator[tuple[System, System]]:
    """One to be disturbed, one not."""
    with reachable_folder() as folder:
        pair = tuple(System(folder / name / "data", free_port(), ground=ground(folder)) for name in ("disturbed", "undisturbed"))
        for system in pair:
            system.data.parent.mkdir()
        try:
            yield pair  # type: ignore[misc]
        finally:
            for system in pair:
                system.clean_up()


async def test_a_replay_killed_again_and_again_stores_and_alarms_as_an_undisturbed_one_does(
    systems: tuple[System, System],
) -> None:
    disturbed, undisturbed = systems
    disturbed.environment = undisturbed.environment = {"WQ_SILENCE_GATEWAY_S": "0"}  # the replay ends before the test does
    pieces = list(_pieces())
    await undisturbed.start()
    await describe(undisturbed, REGION, SOURCES)
    await _replay(undisturbed, pieces, [])
    undisturbed_sums = await settled_ledger(undisturbed.target)
    expected = await read_back(undisturbed.target, SENSORS)
    assert undisturbed_sums.stored == len(expected)
    episodes, alerts = await alarms_at_rest(undisturbed)
    assert await undisturbed.stop() == 0

    chance = random.Random(20261123)
    moments = sorted(chance.uniform(0.02, 0.95) for _ in range(KILLS))
    async with receiving() as receiver, watched(disturbed.target) as eye:
        disturbed.environment = {**disturbed.environment, **_webhook(receiver)}
        await disturbed.start()
        await describe(disturbed, REGION, SOURCES)
        await _replay(disturbed, pieces, moments)
        sums = await settled_ledger(disturbed.target)
        found = await read_back(disturbed.target, SENSORS)
        found_episodes, found_alerts = await alarms_at_rest(disturbed)
        ((notices,),) = await ask(disturbed, "SELECT count(*) FROM alert.outbox")

    assert found_episodes == episodes
    assert found_alerts == alerts
    assert {kind for _, _, _, _, kind, *_ in alerts} == {CONTAMINATION, LIMIT}
    assert eye.breaches == []
    assert eye.seen
    ids = [received.message_id for received in receiver.received]
    assert len(set(ids)) == notices, "every change of an alert is told"
    assert len(ids) - len(set(ids)) <= 16 * KILLS, "again is told only what was under way at a kill, under the same id"

    sent = concatenate(pieces)
    truth = first_of_each_key(sent)
    np.testing.assert_array_equal(found.sensor_id, truth.sensor_id)
    np.testing.assert_array_equal(found.measured_at_us, truth.measured_at_us)
    np.testing.assert_array_equal(found.values, truth.values)
    assert_same_rows(found, expected)
    assert (sums.stored, sums.dead) == (len(found), 0)
    assert sums.accepted >= len(sent) - int(np.isnan(sent.values).all(axis=0).sum())


def _webhook(receiver: Receiver) -> dict[str, str]:
    return {"WQ_WEBHOOK_URL": receiver.url, "WQ_WEBHOOK_SECRET": SECRET, "WQ_WEBHOOK_PRIVATE": "true"}


def _pieces() -> Iterator[Readings]:
    for path, sensor_id in SENSOR_OF.items():
        with StationFile(path, None, sensor_id) as station:
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

    settings = GatewaySettings(system.target, "replay-1", REGION, ack_timeout_s=10, buffer_readings=100_000)
    async with (
        Gateway(settings, on_ack=lambda ack: count(ack.readings)) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(kill())
        for piece in pieces:
            await gateway.send(piece)
        await gateway.flush(600)
