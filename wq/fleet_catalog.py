"""How does a simulated fleet come into the catalog, as an operator would describe it: sites of three kinds, and their sensors?"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
from google.protobuf.message import Message
from waterquality.v1 import catalog_pb2 as pb
from waterquality.v1.catalog_pb2_grpc import CatalogServiceStub

from mesh.errors import AlreadyExists, from_rpc
from mesh.shards import first_error
from wq.connect import CALL_S, open_aio_channel
from wq.fleet_sensors import Fleet, Place
from wq.fleet_water import INDUSTRIAL, MUNICIPAL, NATURAL, measured_by

MOST_SENSORS = 2_000
_AT_ONCE = 8
_KINDS = {
    MUNICIPAL: (pb.SOURCE_TYPE_MUNICIPAL, "plant", "Waterworks"),
    INDUSTRIAL: (pb.SOURCE_TYPE_INDUSTRIAL, "outfall", "Outfall"),
    NATURAL: (pb.SOURCE_TYPE_NATURAL, "river", "River station"),
}


async def describe_fleet(fleet: Fleet, target: str) -> None:
    """Creates what is missing of the first 2,000 sensors and their sites; what is there stays as it is. Raises as the catalog
    does, Unavailable when nobody answers."""
    places = [place for place, _ in zip(fleet.places(), range(MOST_SENSORS), strict=False)]
    name = fleet.settings.name
    sites = {_site_id(name, place): _site(name, place) for place in places}
    async with open_aio_channel(target) as channel:
        catalog = CatalogServiceStub(channel)
        known = {site.site_id async for site in _all_sites(catalog)}
        missing = [site for site_id, site in sites.items() if site_id not in known]
        await _create(catalog.CreateSite, [pb.CreateSiteRequest(site=site) for site in missing])
        sensors = [_sensor(fleet, place, number % fleet.settings.site_sensors) for number, place in enumerate(places)]
        await _create(catalog.CreateSensor, [pb.CreateSensorRequest(sensor=sensor) for sensor in sensors])


def _site_id(name: str, place: Place) -> str:
    return f"{name}-{_KINDS[place.kind][1]}-{place.site + 1}"


def _site(name: str, place: Place) -> pb.Site:
    source_type, _, word = _KINDS[place.kind]
    return pb.Site(site_id=_site_id(name, place), name=f"{word} {place.site + 1}", region=place.region, source_type=source_type)


def _sensor(fleet: Fleet, place: Place, within_site: int) -> pb.Sensor:
    return pb.Sensor(
        sensor_id=place.sensor_id,
        site_id=_site_id(fleet.settings.name, place),
        name=f"{_KINDS[place.kind][2]} {place.site + 1}, sonde {within_site + 1}",
        parameters=[parameter.number for parameter in measured_by(place.kind)],  # type: ignore[misc]
        expected_period_s=fleet.settings.period_s,
    )


async def _all_sites(catalog: Any) -> AsyncIterator[pb.Site]:
    request = pb.ListSitesRequest(page_size=1000)
    while True:
        try:
            page = await catalog.ListSites(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise from_rpc(error) from error
        for site in page.sites:
            yield site
        request.page_token = page.next_page_token
        if not request.page_token:
            return


async def _create(create: Callable[..., Awaitable[object]], requests: Iterable[Message]) -> None:
    """All of them, some at a time; what exists already is left alone."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(request: Message) -> None:
        async with limit:
            try:
                await create(request, timeout=CALL_S)
            except grpc.RpcError as error:
                if not isinstance(from_rpc(error), AlreadyExists):
                    raise from_rpc(error) from error

    try:
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(one(request))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
