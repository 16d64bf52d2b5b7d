"""Sensors are entered when they are first seen, once, whatever crashes, and never over what a person said."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from mesh import positions
from mesh.clock import SystemClock
from mesh.errors import Fault
from mesh.ports import Partition
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import SCREENED_BACKFILL
from query_svc.catalog_tables import create_tables
from query_svc.known_sensors import Known, SeenSensors
from query_svc.sensors import Sensors
from query_svc.sight import TOPICS, Sight
from tests.builders import a_reading, readings_of, some_readings
from tests.query.deployment import SCREENED_0, Deployment, FreshDatabase, deployed, running, until
from water.sites import Sensor

SEEN = "SELECT sensor_id, parameters FROM catalog.sensors WHERE first_sight ORDER BY sensor_id"


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        await create_tables(deployment.catalog)
        yield deployment


async def passed(mesh: Deployment) -> bool:
    """Everything that was put."""
    async with transaction(mesh.catalog) as connection:
        found = await positions.read(connection, "sight", mesh.log.log_id, TOPICS)
    had = {partition: position.source_offset for (_, partition), position in found.items()}
    return had == mesh.sources


async def sight_all(mesh: Deployment, sight: Sight | None = None) -> list[tuple[Any, ...]]:
    async with running((sight or Sight(mesh.log, mesh.catalog, Progress("sight"))).run):
        await until(lambda: passed(mesh))
    return await mesh.catalog_rows(SEEN)


async def test_sensors_are_entered_with_what_they_measure_from_both_lanes(mesh: Deployment) -> None:
    await mesh.put(readings_of((5, 0, {"ph": 7.0}), (5, 1, {"flow_m3_h": 1.0}), (3, 0, {"redox_mv": 1.0})))
    await mesh.put(a_reading(9, 0, turbidity_ntu=1.0), Partition(SCREENED_BACKFILL, 2))
    assert await sight_all(mesh) == [(3, 1 << 6), (5, 1 | 1 << 7), (9, 1 << 1)]


async def test_a_new_parameter_is_added_and_a_restart_changes_nothing(mesh: Deployment) -> None:
    await mesh.put(a_reading(5, 0, ph=7.0))
    await sight_all(mesh)
    revisions = await mesh.catalog_rows("SELECT revision FROM catalog.sensors")
    await mesh.put(a_reading(5, 1, ph=7.0))
    await sight_all(mesh)
    assert await mesh.catalog_rows("SELECT revision FROM catalog.sensors") == revisions
    await mesh.put(a_reading(5, 2, ph=7.0, turbidity_ntu=1.0))
    assert await sight_all(mesh) == [(5, 3)]


async def test_what_a_person_said_stays_and_no_context_changes(mesh: Deployment) -> None:
    sensors = Sensors(mesh.catalog, SystemClock())
    said = await sensors.create(Sensor(5, name="mine", parameters=(2,)), "")
    before = await mesh.catalog_rows("SELECT newest FROM catalog.version")
    await mesh.put(readings_of((5, 0, {"ph": 7.0}), (6, 0, {"ph": 7.0})))
    assert await sight_all(mesh) == [(6, 1)]
    assert await sensors.get(5) == said
    assert await mesh.catalog_rows("SELECT newest FROM catalog.version") == before


async def test_creating_a_sensor_that_was_seen_fills_it_in(mesh: Deployment) -> None:
    await mesh.put(readings_of((5, 0, {"ph": 7.0}), (6, 0, {"ph": 7.0})))
    await sight_all(mesh)
    sensors = Sensors(mesh.catalog, SystemClock())
    seen = await sensors.get(5)
    assert (seen.first_sight, seen.parameters, seen.state) == (True, (1,), 1)
    filled = await sensors.create(Sensor(5, name="Five"), "")
    assert (filled.first_sight, filled.parameters, filled.name) == (False, (1,), "Five")
    assert filled.etag != seen.etag
    updated = await sensors.update(Sensor(6, name="Six"), ["name"])
    assert not updated.first_sight


async def test_an_unreadable_record_is_passed_and_a_missing_one_stops_the_worker(mesh: Deployment) -> None:
    await mesh.put(a_reading(1), value=b"\xff\xff")
    await mesh.put(a_reading(2))
    assert await sight_all(mesh) == [(2, 1)]
    await mesh.put(a_reading(3), source=7, previous=6)
    with pytest.raises(Fault, match="missing"):
        await Sight(mesh.log, mesh.catalog, Progress("sight")).run()


async def test_a_record_that_was_had_before_is_dropped(mesh: Deployment) -> None:
    await mesh.put(a_reading(1))
    await mesh.put(a_reading(2), source=0, previous=-1)
    mesh.sources[SCREENED_0] = 0
    await mesh.put(a_reading(3))
    assert await sight_all(mesh) == [(1, 1), (3, 1)]


async def test_known_sensors_cost_the_database_nothing(mesh: Deployment) -> None:
    sight = Sight(mesh.log, mesh.catalog, Progress("sight"))
    await mesh.put(some_readings(500, sensors=100))
    await sight_all(mesh, sight)
    async with transaction(mesh.catalog) as connection:
        await connection.execute(text("DELETE FROM catalog.sensors"))
    await mesh.put(some_readings(500, sensors=100))
    assert await sight_all(mesh, sight) == []


def test_known_forgets_everything_rather_than_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("query_svc.known_sensors.MOST_KNOWN", 3)
    known = Known()
    for ids in ([1, 2], [3], [9]):
        known.add(SeenSensors(np.array(ids), np.ones(len(ids), np.int64)))
    assert known.news(SeenSensors(np.array([1, 9]), np.array([1, 1]))).sensor_id.tolist() == [1]
    assert known.news(SeenSensors(np.array([9]), np.array([3]))).sensor_id.tolist() == [9]
