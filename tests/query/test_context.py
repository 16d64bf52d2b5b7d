"""Contexts: every change becomes a version, every version in force is in every partition, whatever crashes meanwhile."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from sqlalchemy import text
from waterquality.v1 import log_pb2

from mesh.adapters.directory import DirectoryObjects
from mesh.clock import ManualClock
from mesh.codec.log_records import ContextChange, ContextKind, read_accepted
from mesh.codec.stamp import read_stamp
from mesh.context import Publisher, ensure_first_contexts
from mesh.errors import Unavailable
from mesh.ports import Log, Partition, Record
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL, CONTEXTS
from query_svc.catalog import CatalogOwner
from query_svc.catalog_tables import create_tables
from query_svc.sensors import Sensors
from query_svc.sites import Sites
from tests.query.deployment import Deployment, FreshDatabase, deployed, running, until
from water.sites import Sensor, Site

WEIR = Site("weir", "The weir", "north", 3)


@dataclass(slots=True)
class Publishing:
    deployment: Deployment
    objects: DirectoryObjects
    publisher: Publisher
    sites: Sites
    sensors: Sensors

    async def changes(self, partition: Partition) -> list[ContextChange]:
        """The context changes of a partition, in order."""
        records = await self.deployment.log.read(partition, 0, 1000)
        assert all(read_stamp(stored.record.headers).count == 0 for stored in records)
        found = [read_accepted(stored.record.value) for stored in records]
        return [change for change in found if isinstance(change, ContextChange)]

    async def everywhere(self) -> list[int]:
        """The versions, which must be the same in every partition."""
        lanes = [Partition(topic, number) for topic in (ACCEPTED, BACKFILL) for number in range(4)]
        found = [await self.changes(partition) for partition in (Partition(CONTEXTS, 0), *lanes)]
        assert all(changes == found[0] for changes in found)
        return [change.version for change in found[0]]

    async def newest(self) -> log_pb2.CatalogContext:
        *_, change = await self.changes(Partition(CONTEXTS, 0))
        content = await self.objects.get(change.object_path)
        assert hashlib.sha256(content).hexdigest() == change.sha256
        assert change.kind == ContextKind.CATALOG
        return log_pb2.CatalogContext.FromString(content)


@pytest.fixture
async def publishing(fresh_database: FreshDatabase, objects: DirectoryObjects, clock: ManualClock) -> AsyncIterator[Publishing]:
    async with deployed(fresh_database) as deployment:
        await create_tables(deployment.catalog)
        publisher = Publisher(CatalogOwner(deployment.catalog), deployment.log, objects, Progress("context"), clock)
        sites, sensors = Sites(deployment.catalog, clock), Sensors(deployment.catalog, clock)
        yield Publishing(deployment, objects, publisher, sites, sensors)


async def test_version_one_of_an_empty_catalog_is_published_once(publishing: Publishing) -> None:
    assert await publishing.publisher.publish_pending() == 1
    assert await publishing.publisher.publish_pending() is None
    assert await publishing.everywhere() == [1]
    assert await publishing.newest() == log_pb2.CatalogContext()


async def test_every_change_by_a_person_makes_a_version_and_the_newest_is_published_whole(publishing: Publishing) -> None:
    await publishing.publisher.publish_pending()
    await publishing.sites.create(WEIR, "r")
    await publishing.sites.create(WEIR, "r")
    await publishing.sensors.create(Sensor(2), "")
    await publishing.sensors.create(Sensor(1, "weir", expected_period_s=10), "")
    await publishing.sites.update(replace(WEIR, name="Lower"), ["name"])
    assert await publishing.publisher.publish_pending() == 5
    assert await publishing.everywhere() == [1, 5]
    newest = await publishing.newest()
    assert [site.name for site in newest.sites] == ["Lower"]
    assert [(sensor.sensor_id, sensor.expected_period_s) for sensor in newest.sensors] == [(1, 10), (2, 0)]


async def test_a_change_that_is_refused_makes_no_version(publishing: Publishing) -> None:
    await publishing.publisher.publish_pending()
    with pytest.raises(Exception, match="no site"):
        await publishing.sensors.create(Sensor(1, "nowhere"), "")
    assert await publishing.publisher.publish_pending() is None


async def test_sensors_that_nobody_described_are_not_in_it(publishing: Publishing) -> None:
    async with transaction(publishing.deployment.catalog) as connection:
        await connection.execute(text("INSERT INTO catalog.sensors (sensor_id, first_sight) VALUES (9, true)"))
    await publishing.publisher.publish_pending()
    assert not (await publishing.newest()).sensors


class CrashingLog:
    """A log that fails at the n-th append of a process, as a process killed there would."""

    def __init__(self, log: Log, appends: int) -> None:
        self._log = log
        self._left = appends

    log_id = property(lambda self: self._log.log_id)
    partition_count = property(lambda self: self._log.partition_count)

    async def append(self, partition: Partition, record: Record) -> "asyncio.Future[int]":
        self._left -= 1
        if self._left < 0:
            raise Unavailable("killed here")
        return await self._log.append(partition, record)


async def test_after_a_crash_anywhere_it_is_published_again_and_readers_see_versions_grow(
    publishing: Publishing, objects: DirectoryObjects, clock: ManualClock
) -> None:
    owner, log = CatalogOwner(publishing.deployment.catalog), publishing.deployment.log
    for appends in range(9):
        await publishing.sites.create(replace(WEIR, site_id=f"w{appends}"), "")
        crashing = Publisher(owner, CrashingLog(log, appends), objects, Progress("context"), clock)  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match="killed"):
            await crashing.publish_pending()
        assert await publishing.publisher.publish_pending() == appends + 2
    for number in range(4):
        for topic in (ACCEPTED, BACKFILL):
            versions = [change.version for change in await publishing.changes(Partition(topic, number))]
            assert versions == sorted(versions)
            assert set(versions) == set(range(2, 11))


async def test_two_publishers_at_once_publish_a_version_once(publishing: Publishing) -> None:
    done = await asyncio.gather(*(publishing.publisher.publish_pending() for _ in range(3)))
    assert sorted(version or 0 for version in done) == [0, 0, 1]
    assert await publishing.everywhere() == [1]


async def test_the_worker_publishes_within_a_second_of_its_clock(publishing: Publishing, clock: ManualClock) -> None:
    async def versions_are(wanted: list[int]) -> bool:
        return [change.version for change in await publishing.changes(Partition(CONTEXTS, 0))] == wanted

    async with running(publishing.publisher.run):
        await until(lambda: versions_are([1]))
        await publishing.sites.create(WEIR, "")
        await until(lambda: asyncio.sleep(0, clock.sleeping > 0))
        clock.advance(1)
        await until(lambda: versions_are([1, 2]))


async def test_kinds_without_an_owner_get_a_first_version_once_per_log(publishing: Publishing) -> None:
    log, objects = publishing.deployment.log, publishing.objects
    for _ in range(2):
        await ensure_first_contexts({ContextKind.RULES: log_pb2.RulesContext().SerializeToString()}, log, objects)
    (change,) = await publishing.changes(Partition(ACCEPTED, 3))
    assert (change.kind, change.version) == (ContextKind.RULES, 1)
    assert change.object_path.startswith(f"contexts/{log.log_id}/rules/")
    assert await objects.get(change.object_path) == b""
    assert await publishing.everywhere() == [1]
