"""Which sites and sensors the page shows, and in which region each sensor is."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping

from waterquality.v1 import catalog_pb2, catalog_pb2_grpc, query_pb2, query_pb2_grpc

from mesh.codec.times import write_time
from mesh.ports import Clock
from web_svc.board import Board, Part
from web_svc.source import CALL_S, Say
from web_svc.words import sensor_state_of, source_type_of, write

MOST_SENSORS = 5_000
MOST_SITES = 5_000
PAGE = 1_000
LOOK_EVERY_S = 10.0
LOOK_SOON_S = 1.0
TOGETHER_US = 2_000_000
MOST_QUESTIONS = 20


class Places:
    """The first 5,000 sensors of the catalog, by id, and those that were heard of before the catalog had them. A sensor without a
    site is under the region that its newest reading came from, as it was when the page's server first saw it."""

    def __init__(
        self,
        catalog: "catalog_pb2_grpc.CatalogServiceAsyncStub",
        query: "query_pb2_grpc.QueryServiceAsyncStub",
        board: Board,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._query = query
        self._board = board
        self._clock = clock
        self._sensors: dict[int, catalog_pb2.Sensor] = {}
        self._regions: dict[int, str] = {}
        self._homeless: dict[int, int] = {}
        self._unknown = asyncio.Event()
        self.complete = True
        self.loaded = asyncio.Event()

    @property
    def asked(self) -> list[int]:
        """Ids of the sensors to ask for, at most 5,000; empty: all, because there are no more."""
        return [] if self.complete else list(self._sensors)

    async def follow(self, say: Say) -> None:
        """Looks every 10 s, and soon while there are sensors of which the region is not known. Raises RpcError."""
        while True:
            self._unknown.clear()
            await self._look()
            say("")
            await self._find_regions()
            await self._clock.sleep(LOOK_SOON_S)
            if not self._homeless:
                await self._wait_for_unknown(LOOK_EVERY_S - LOOK_SOON_S)

    def heard(self, sensor_id: int, measured_at_us: int) -> bool:
        """Notes a reading of a sensor; whether the sensor is on the page."""
        sensor = self._sensors.get(sensor_id)
        if sensor is None:
            if len(self._sensors) >= MOST_SENSORS:
                return False
            sensor = self._sensors[sensor_id] = catalog_pb2.Sensor(sensor_id=sensor_id, first_sight=True)
            self._put_sensors([sensor])
        if not sensor.site_id and sensor_id not in self._regions:
            self._homeless.setdefault(sensor_id, measured_at_us)
            self._unknown.set()
        return True

    async def _wait_for_unknown(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._unknown.wait()
        except TimeoutError:
            return

    async def _look(self) -> None:
        await self._look_at_sites()
        token = ""
        for _ in range(MOST_SENSORS // PAGE):
            request = catalog_pb2.ListSensorsRequest(page_size=PAGE, page_token=token)
            answer = await self._catalog.ListSensors(request, timeout=CALL_S)
            known = [one for one in answer.sensors if one.sensor_id in self._sensors or len(self._sensors) < MOST_SENSORS]
            self._sensors |= {sensor.sensor_id: sensor for sensor in known}
            self._put_sensors(known)
            token = answer.next_page_token
            if not token:
                break
        self.complete = not token and len(self._sensors) < MOST_SENSORS
        self._board.put(Part.ABOUT, {"complete": write({"complete": self.complete, "most_sensors": MOST_SENSORS})})
        self.loaded.set()

    async def _look_at_sites(self) -> None:
        token, found = "", list[catalog_pb2.Site]()
        while len(found) < MOST_SITES:
            request = catalog_pb2.ListSitesRequest(page_size=PAGE, page_token=token)
            answer = await self._catalog.ListSites(request, timeout=CALL_S)
            found += answer.sites
            token = answer.next_page_token
            if not token:
                break
        self._board.put(Part.SITES, {site.site_id: _site(site) for site in found})

    def _put_sensors(self, sensors: Iterable[catalog_pb2.Sensor]) -> None:
        entries = {str(one.sensor_id): _sensor(one, self._regions.get(one.sensor_id, "")) for one in sensors}
        self._board.put(Part.SENSORS, entries)

    async def _find_regions(self) -> None:
        """Asks for the one reading by which each was noticed: rows say the region. One not stored yet is asked for again."""
        for sensors in list(_together(self._homeless))[:MOST_QUESTIONS]:
            times = [self._homeless[sensor] for sensor in sensors]
            asked = query_pb2.ReadingFilter(
                sensor_ids=sensors, start_time=write_time(min(times)), end_time=write_time(max(times) + 1)
            )
            answer = await self._query.ListReadings(query_pb2.ListReadingsRequest(filter=asked, page_size=10_000), timeout=CALL_S)
            found = {row.sensor_id: row.region for row in answer.readings}
            self._regions |= found
            for sensor in found:
                self._homeless.pop(sensor, None)
            self._put_sensors(self._sensors[sensor] for sensor in found if sensor in self._sensors)


def _together(homeless: Mapping[int, int]) -> Iterator[list[int]]:
    """Sensors whose readings are close in time, so that one short span has them all."""
    group: list[int] = []
    for sensor, at_us in sorted(homeless.items(), key=lambda one: one[1]):
        if group and (at_us - homeless[group[0]] > TOGETHER_US or len(group) >= PAGE):
            yield group
            group = []
        group.append(sensor)
    if group:
        yield group


def _site(site: catalog_pb2.Site) -> str:
    kind = source_type_of(site.source_type)
    return write({"site_id": site.site_id, "name": site.name, "region": site.region, "source_type": kind})


def _sensor(sensor: catalog_pb2.Sensor, region: str) -> str:
    """Ids are text: JavaScript's numbers have 53 bits."""
    return write(
        {
            "sensor_id": str(sensor.sensor_id),
            "name": sensor.name,
            "site_id": sensor.site_id,
            "region": region,
            "parameters": list(sensor.parameters),
            "state": sensor_state_of(sensor.state) if sensor.state else "in service",
        }
    )
