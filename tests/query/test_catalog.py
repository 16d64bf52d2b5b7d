"""Sites and sensors: what a person says is kept, checked, versioned by etag, done once, and listed in order."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy.ext.asyncio import AsyncEngine
from waterquality.v1 import catalog_pb2
from waterquality.v1.reading_pb2 import PARAMETER_DISSOLVED_OXYGEN, PARAMETER_PH

from mesh.clock import ManualClock
from mesh.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound
from mesh.shards import open_engine, transaction
from query_svc.catalog_change import REQUESTS_KEPT_US
from query_svc.catalog_tables import REQUESTS, create_tables
from query_svc.sensors import Sensors
from query_svc.sites import Sites
from tests.query.deployment import FreshDatabase
from tests.query.serving import error_of, serving
from water.sites import Sensor, Site

WEIR = Site("weir", "The weir", "north", 3, 51.5, -0.1, "Europe/London")
PROBE = Sensor(7, "weir", "Probe 7", (1, 3), 10.0, 1, -5, 1, "chlorine dioxide")


@pytest.fixture
async def catalog(fresh_database: FreshDatabase) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(await fresh_database(), 4)
    await create_tables(engine)
    await create_tables(engine)
    yield engine
    await engine.dispose()


@pytest.fixture
def sites(catalog: AsyncEngine, clock: ManualClock) -> Sites:
    return Sites(catalog, clock)


@pytest.fixture
def sensors(catalog: AsyncEngine, clock: ManualClock) -> Sensors:
    return Sensors(catalog, clock)


async def test_what_was_created_is_read_back_as_it_was_said(sites: Sites, sensors: Sensors) -> None:
    created = await sites.create(WEIR, "")
    assert replace(created, etag="") == WEIR
    assert await sites.get("weir") == created
    probe = await sensors.create(PROBE, "")
    assert replace(probe, etag="") == PROBE
    assert await sensors.get(7) == probe
    bare = await sensors.create(Sensor(8), "")
    assert replace(bare, etag="") == Sensor(8, state=1)


async def test_an_id_is_taken_once(sites: Sites, sensors: Sensors) -> None:
    await sites.create(WEIR, "")
    await sensors.create(PROBE, "")
    with pytest.raises(AlreadyExists, match="'weir' exists"):
        await sites.create(replace(WEIR, name="Another"), "")
    with pytest.raises(AlreadyExists, match="7"):
        await sensors.create(PROBE, "")


async def test_a_repeated_request_returns_the_first_result_for_a_day_at_least(
    sites: Sites, sensors: Sensors, catalog: AsyncEngine, clock: ManualClock
) -> None:
    first = await sites.create(WEIR, "r1")
    await sites.update(replace(WEIR, name="New name"), ["name"])
    clock.advance(24 * 3600)
    assert await sites.create(WEIR, "r1") == first
    probe = await sensors.create(PROBE, "r2")
    assert await sensors.create(PROBE, "r2") == probe
    for other in (replace(WEIR, name="x"), replace(WEIR, site_id="other")):
        with pytest.raises(InvalidArgument) as caught:
            await sites.create(other, "r1")
        assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(InvalidArgument):
        await sensors.create(Sensor(9), "r1")
    clock.advance(REQUESTS_KEPT_US / 1e6)
    await sensors.create(Sensor(10), "r3")
    async with transaction(catalog) as connection:
        assert {row.request_id for row in await connection.execute(REQUESTS.select())} == {"r2", "r3"}
    with pytest.raises(InvalidArgument, match="request_id"):
        await sites.create(replace(WEIR, site_id="w2"), "x" * 129)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"site_id": ""}, "site.site_id"),
        ({"site_id": "a/b"}, "site.site_id"),
        ({"site_id": "x" * 65}, "site.site_id"),
        ({"region": ""}, "site.region"),
        ({"region": "../../"}, "site.region"),
        ({"region": "North"}, "site.region"),
        ({"source_type": 0}, "site.source_type"),
        ({"source_type": 4}, "site.source_type"),
        ({"latitude_deg": 90.1}, "site.latitude_deg"),
        ({"longitude_deg": float("nan")}, "site.longitude_deg"),
        ({"longitude_deg": None}, "site.latitude_deg"),
        ({"time_zone": "Mars/Olympus"}, "site.time_zone"),
        ({"name": "x" * 201}, "site.name"),
        ({"name": "a\x00b"}, "site.name"),
        ({"etag": "1"}, "site.etag"),
    ],
)
async def test_a_site_that_cannot_stand_names_its_field(sites: Sites, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await sites.create(replace(WEIR, **change), "")
    assert list(caught.value.fields) == [field]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sensor_id": 0}, "sensor.sensor_id"),
        ({"sensor_id": -1}, "sensor.sensor_id"),
        ({"site_id": "a b"}, "sensor.site_id"),
        ({"parameters": (1, 99)}, "sensor.parameters"),
        ({"parameters": (0,)}, "sensor.parameters"),
        ({"parameters": (1, 1)}, "sensor.parameters"),
        ({"expected_period_s": -1.0}, "sensor.expected_period_s"),
        ({"expected_period_s": float("inf")}, "sensor.expected_period_s"),
        ({"expected_period_s": float("nan")}, "sensor.expected_period_s"),
        ({"state": 4}, "sensor.state"),
        ({"disinfectant": "x" * 201}, "sensor.disinfectant"),
        ({"etag": "1"}, "sensor.etag"),
    ],
)
async def test_a_sensor_that_cannot_stand_names_its_field(
    sites: Sites, sensors: Sensors, change: dict[str, Any], field: str
) -> None:
    await sites.create(WEIR, "")
    with pytest.raises(InvalidArgument) as caught:
        await sensors.create(replace(PROBE, **change), "")
    assert list(caught.value.fields) == [field]


async def test_a_sensor_needs_its_site(sensors: Sensors) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await sensors.create(PROBE, "")
    assert caught.value.reason == "SITE_NOT_FOUND"
    await sensors.create(replace(PROBE, site_id=""), "")
    with pytest.raises(FailedPrecondition):
        await sensors.update(PROBE, ["site_id"])


async def test_an_update_changes_what_the_mask_names_and_nothing_else(sites: Sites, sensors: Sensors) -> None:
    await sites.create(WEIR, "")
    await sensors.create(PROBE, "")
    new = Site("weir", "Lower weir", "south", 1)
    assert replace(await sites.update(new, ["name", "region"]), etag="") == replace(WEIR, name="Lower weir", region="south")
    unplaced = await sites.update(new, ["latitude_deg", "longitude_deg", "time_zone"])
    assert (unplaced.latitude_deg, unplaced.longitude_deg, unplaced.time_zone) == (None, None, "")
    probe = await sensors.update(Sensor(7, state=2, calibrated_us=99), ["state", "calibrated_time"])
    assert replace(probe, etag="") == replace(PROBE, state=2, calibrated_us=99)


@pytest.mark.parametrize("paths", [[], ["site_id"], ["etag"], ["name", "colour"], ["*"]])
async def test_a_mask_that_names_nothing_or_what_cannot_be_changed_is_refused(sites: Sites, paths: list[str]) -> None:
    await sites.create(WEIR, "")
    with pytest.raises(InvalidArgument) as caught:
        await sites.update(WEIR, paths)
    assert list(caught.value.fields) == ["update_mask"]


async def test_an_old_etag_loses_and_none_wins(sites: Sites, sensors: Sensors) -> None:
    old = await sites.create(WEIR, "")
    new = await sites.update(replace(old, name="second"), ["name"])
    assert new.etag != old.etag
    with pytest.raises(Conflict) as caught:
        await sites.update(replace(old, name="third"), ["name"])
    assert caught.value.reason == "ETAG_MISMATCH"
    assert (await sites.update(Site("weir", "fourth"), ["name"])).name == "fourth"
    probe = await sensors.create(replace(PROBE, site_id=""), "")
    await sensors.update(replace(probe, state=2), ["state"])
    with pytest.raises(Conflict):
        await sensors.update(replace(probe, state=3), ["state"])


async def test_an_update_is_checked_as_a_whole(sites: Sites, sensors: Sensors) -> None:
    await sites.create(WEIR, "")
    with pytest.raises(InvalidArgument, match="together"):
        await sites.update(Site("weir"), ["latitude_deg"])
    with pytest.raises(NotFound):
        await sites.update(Site("nowhere"), ["name"])
    with pytest.raises(NotFound):
        await sensors.update(Sensor(404), ["name"])
    with pytest.raises(NotFound):
        await sensors.get(404)


async def test_lists_come_in_order_of_ids_on_pages_of_any_size(sites: Sites, sensors: Sensors) -> None:
    ids = ["B", "a", "a-b", "a.b", "a_b", "z9"]
    for number, site_id in enumerate(reversed(ids)):
        await sites.create(Site(site_id, region="north" if number % 2 else "south", source_type=1 + number % 3), "")
    for sensor_id in (5, 3, 1, 30, 12):
        await sensors.create(Sensor(sensor_id, "a" if sensor_id > 4 else ""), "")
    for size in (1, 2, 6, 0):
        found, token = [], ""
        while True:
            page, token = await sites.list(size, token, [], 0)
            found += [site.site_id for site in page]
            if not token:
                break
        assert found == sorted(ids)
    assert [site.site_id for site in (await sites.list(0, "", ["north"], 0))[0]] == ["B", "a-b", "a_b"]
    assert [site.site_id for site in (await sites.list(0, "", ["north", "south"], 1))[0]] == ["a-b", "z9"]
    first, token = await sensors.list(2, "", ["a"], 1)
    rest, end = await sensors.list(2, token, ["a"], 1)
    assert ([sensor.sensor_id for sensor in first + rest], end) == ([5, 12, 30], "")
    assert [sensor.sensor_id for sensor in (await sensors.list(0, "", [], 2))[0]] == []
    with pytest.raises(InvalidArgument, match="page_token"):
        await sensors.list(2, token, ["a"], 2)
    for wrong in (sites.list(-1, "", [], 0), sites.list(0, "", [], 9), sensors.list(0, "", [], 9), sites.list(0, "x", [], 0)):
        with pytest.raises(InvalidArgument):
            await wrong


async def test_the_service_speaks_paths_times_and_errors_of_the_contract(fresh_database: FreshDatabase) -> None:
    async with serving(fresh_database) as served:
        stub = served.catalog
        site = catalog_pb2.Site(site_id="weir", region="north", source_type=catalog_pb2.SOURCE_TYPE_NATURAL)
        created = (await stub.CreateSite(catalog_pb2.CreateSiteRequest(site=site, request_id="r"))).site
        assert not created.HasField("latitude_deg")
        sensor = catalog_pb2.Sensor(
            sensor_id=1, site_id="weir", parameters=[PARAMETER_PH, PARAMETER_DISSOLVED_OXYGEN], first_sight=True
        )
        sensor.installed_time.FromJsonString("2020-02-03T04:05:06.789Z")
        put = (await stub.CreateSensor(catalog_pb2.CreateSensorRequest(sensor=sensor))).sensor
        assert (put.installed_time, list(put.parameters), put.first_sight) == (sensor.installed_time, [1, 4], False)
        assert put.state == catalog_pb2.SENSOR_STATE_IN_SERVICE
        put.calibrated_time.FromJsonString("2021-01-01T00:00:00Z")
        mask = FieldMask(paths=["calibrated_time"])
        update = catalog_pb2.UpdateSensorRequest(sensor=put, update_mask=mask)
        assert (await stub.UpdateSensor(update)).sensor.calibrated_time == put.calibrated_time
        assert (await error_of(stub.UpdateSensor(update))).reason == "ETAG_MISMATCH"
        put.installed_time.seconds = 10**13
        update = catalog_pb2.UpdateSensorRequest(sensor=put, update_mask=mask)
        assert "sensor.installed_time" in (await error_of(stub.UpdateSensor(update))).fields
        site.name = "x"
        mask = FieldMask(paths=["site_id"])
        assert (
            await error_of(stub.UpdateSite(catalog_pb2.UpdateSiteRequest(site=site, update_mask=mask)))
        ).reason == "INVALID_MASK"
        assert [one.site_id for one in (await stub.ListSites(catalog_pb2.ListSitesRequest())).sites] == ["weir"]
        assert [one.sensor_id for one in (await stub.ListSensors(catalog_pb2.ListSensorsRequest())).sensors] == [1]
        assert (await stub.GetSite(catalog_pb2.GetSiteRequest(site_id="weir"))).site == created
        assert isinstance(await error_of(stub.GetSensor(catalog_pb2.GetSensorRequest(sensor_id=2))), NotFound)
