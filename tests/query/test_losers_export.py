"""Conflicting readings become objects, each once, none passed over, whatever crashes or commits late (laws 4, 5)."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from sqlalchemy import text

from mesh.adapters.directory import DirectoryObjects
from mesh.clock import ManualClock
from mesh.codec.conflicts import Loser, read_conflicts_path, read_losers, write_conflicts
from mesh.codec.conflicts_told import is_told
from mesh.errors import FailedPrecondition, Unavailable
from mesh.ports import Partition
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import SCREENED, SCREENED_BACKFILL
from query_svc.losers_export import LosersExport
from query_svc.tables import create_shard_tables
from tests.builders import a_reading, some_readings
from tests.query.deployment import Deployment, FreshDatabase, deployed, flag, record_all, sensors_of_shard
from water.readings import Readings

LOSERS = 'SELECT topic, partition, "offset", index FROM conflicting_readings'


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


def an_export(mesh: Deployment, objects: DirectoryObjects, clock: ManualClock) -> LosersExport:
    return LosersExport(mesh.shards, objects, mesh.log.log_id, clock, Progress("losers_export"))


async def exported(objects: DirectoryObjects) -> list[Loser]:
    """All places that the objects name; their numbers follow one another."""
    found: list[Loser] = []
    expected: dict[int, int] = {}
    async for path in objects.list("manifest/"):
        of = read_conflicts_path(path)
        if is_told(path):
            continue
        assert of is not None
        assert of.path == path
        assert of.first == expected.get(of.shard, 0)
        expected[of.shard] = of.first + of.count
        found += read_losers(of, await objects.get(path))
    return found


async def conflicts_objects(objects: DirectoryObjects) -> list[str]:
    return [path async for path in objects.list("manifest/") if read_conflicts_path(path)]


async def conflicting(mesh: Deployment) -> list[Loser]:
    return [Loser(*row) for row in await mesh.rows(LOSERS)]


def place(loser: Loser) -> tuple[str, int, int, int]:
    return loser.topic, loser.partition, loser.offset, loser.index


def other_values(readings: Readings, ph: float) -> Readings:
    values = readings.values.copy()
    values[0] = ph
    return flag(Readings(readings.sensor_id, readings.measured_at_us, values))


async def test_every_conflicting_reading_is_named_once_and_with_its_values(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock
) -> None:
    readings = some_readings(200, sensors=20, absent=0.4)
    await mesh.put(readings)
    await mesh.put(other_values(readings, 2.5), region="south")
    await mesh.put(other_values(readings.take([0, 7]), 0.1), Partition(SCREENED_BACKFILL, 2))  # type: ignore[arg-type]
    await record_all(mesh)
    export = an_export(mesh, objects, clock)
    assert await export.export() == 202
    assert await export.export() == 0
    assert sorted(await exported(objects), key=place) == sorted(await conflicting(mesh), key=place)
    lines = [json.loads(line) for path in await conflicts_objects(objects) for line in (await objects.get(path)).splitlines()]
    (line,) = [line for line in lines if (line["topic"], line["offset"], line["index"]) == (SCREENED, 1, 3)]
    assert line == {
        "sensor_id": 4,
        "timestamp": "2026-01-01T00:00:00.000000Z",
        "ph_level": 2.5,
        "region": "south",
        "flags": 0x1111_1111,
        "topic": SCREENED,
        "partition": 0,
        "offset": 1,
        "index": 3,
    } | {name: value for name, value in line.items() if name in VALUES}


VALUES = ("turbidity", "temperature", "dissolved_oxygen", "conductivity", "disinfectant", "redox", "flow")


async def test_a_row_that_commits_late_is_never_passed_over(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock
) -> None:
    sensor = sensors_of_shard(mesh.shards, 0, 1)[0]
    export = an_export(mesh, objects, clock)
    async with mesh.shards.engines[0].connect() as late:
        await late.execute(text(ONE_LOSER), {"sensor": sensor, "log_id": mesh.log.log_id, "offset": 1})
        async with transaction(mesh.shards.engines[0]) as connection:
            await connection.execute(text(ONE_LOSER), {"sensor": sensor, "log_id": mesh.log.log_id, "offset": 2})
        assert await export.export() == 0, "the second is behind one that is still being written"
        await late.commit()
    assert await export.export() == 2
    assert [loser.offset for loser in await exported(objects)] == [1, 2]


ONE_LOSER = """
INSERT INTO conflicting_readings (sensor_id, timestamp, ph_level, region, flags, log_id, topic, partition, "offset", index)
VALUES (:sensor, '2026-01-01T00:00:00Z', 7, 'north', 1, :log_id, 'screened', 0, :offset, 0)
"""


class Crashing(DirectoryObjects):
    """Dies before or after its next put of conflicting readings, once."""

    before = after = False

    async def put(self, path: str, content: bytes) -> bool:
        if self.before and path.endswith(".jsonl"):
            self.before = False
            raise Unavailable("killed before the put")
        created = await super().put(path, content)
        if self.after and path.endswith(".jsonl"):
            self.after = False
            raise Unavailable("killed after the put")
        return created


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_retry_puts_the_same_object_though_more_has_come(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock, moment: str
) -> None:
    crashing = Crashing(objects._root)
    sensors = sensors_of_shard(mesh.shards, 1, 5)
    readings = some_readings(50, sensors=sensors)
    await mesh.put(readings)
    await mesh.put(other_values(readings, 2.0))
    await record_all(mesh)
    setattr(crashing, moment, True)
    assert await an_export(mesh, crashing, clock).export() == 0
    await mesh.put(other_values(readings, 3.0))
    await record_all(mesh)
    assert await an_export(mesh, crashing, clock).export() == 100
    assert sorted(await exported(objects), key=place) == sorted(await conflicting(mesh), key=place)
    assert len(await conflicts_objects(objects)) == 2


async def test_long_lists_are_cut_into_objects_of_limited_length(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("query_svc.losers_export.MOST_LINES", 30)
    readings = some_readings(100, sensors=sensors_of_shard(mesh.shards, 0, 10))
    await mesh.put(readings)
    await mesh.put(other_values(readings, 2.0))
    await record_all(mesh)
    assert await an_export(mesh, objects, clock).export() == 100
    assert len(await exported(objects)) == 100
    assert len(await conflicts_objects(objects)) == 4


async def test_a_shard_that_is_away_does_not_stop_the_others(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = some_readings(40, sensors=20)
    await mesh.put(readings)
    await mesh.put(other_values(readings, 2.0))
    await record_all(mesh)
    progress = Progress("losers_export")
    export = LosersExport(mesh.shards, objects, mesh.log.log_id, clock, progress)
    name = mesh.shards.engines[0].url.database
    async with mesh.catalog.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        await connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        there = await export.export()
        assert 0 < there < 40
        assert "shard 0" in progress.problem
        await connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    with suppress(Unavailable):
        await conflicting(mesh)
    assert await export.export() == 40 - there
    assert progress.problem == ""


async def test_a_shard_made_before_the_export_gets_what_it_needs_and_loses_nothing(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock
) -> None:
    for engine in mesh.shards.engines.values():
        async with transaction(engine) as connection:
            await connection.execute(text("ALTER TABLE conflicting_readings DROP COLUMN id, DROP COLUMN written_by"))
    readings = a_reading(sensors_of_shard(mesh.shards, 0, 1)[0])
    await mesh.put(readings)
    await mesh.put(other_values(readings, 2.0))
    await record_all(mesh)
    for shard, engine in mesh.shards.engines.items():
        await create_shard_tables(engine, mesh.shards.slots, mesh.shards.slots_of_shard(shard))
    assert await an_export(mesh, objects, clock).export() == 1
    assert [loser.offset for loser in await exported(objects)] == [1]


def test_an_object_that_was_changed_or_cut_is_damaged() -> None:
    line = '{"topic": "screened", "partition": 1, "offset": 2, "index": 3, "sensor_id": 5}'
    path, content = write_conflicts("log-1", 0, 7, [line, line])
    of = read_conflicts_path(path)
    assert of is not None
    assert (of.first, of.count) == (7, 2)
    assert read_losers(of, content) == [Loser("screened", 1, 2, 3)] * 2
    for broken in (content[:-1], b"", content.replace(b"2", b"4"), content + b"\n"):
        with pytest.raises(FailedPrecondition, match="damaged") as refused:
            read_losers(of, broken)
        assert refused.value.reason == "OBJECT_DAMAGED"
        assert refused.value.metadata == {"path": path}
    surrogate = '{"topic": "\\ud800", "partition": 1, "offset": 1, "index": 3}'
    wrong_topic = '{"topic": 1, "partition": 1, "offset": 2, "index": 3}'
    for line in (surrogate, wrong_topic, "[]", "{}", "5", "no json", "[" * 4000):
        lines = [line]
        path, content = write_conflicts("log-1", 0, 0, lines)
        of = read_conflicts_path(path)
        assert of is not None
        with pytest.raises(FailedPrecondition, match="no conflicting reading"):
            read_losers(of, content)


@pytest.mark.parametrize(
    "path",
    [
        "manifest/log-1/north/2026/01/01/x.json",
        "manifest/log-1/conflicts/0/1-2-x.jsonl",
        "manifest/../conflicts/0/" + "0" * 20 + "-1-" + "0" * 64 + ".jsonl/x",
        "/manifest/log-1/conflicts/0/" + "0" * 20 + "-1-" + "0" * 64 + ".jsonl",
    ],
)
def test_other_paths_are_no_conflicts(path: str) -> None:
    assert read_conflicts_path(path) is None
