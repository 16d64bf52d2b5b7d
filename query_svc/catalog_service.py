"""CatalogService: requests of catalog.proto -> sites and sensors. The only place of its requests and responses."""

from typing import Any

import grpc
from waterquality.v1 import catalog_pb2, catalog_pb2_grpc

from mesh.codec.catalog import read_sensor, read_site, write_sensor, write_site
from mesh.server import answers
from query_svc.sensors import Sensors
from query_svc.sites import Sites

_Context = grpc.aio.ServicerContext[Any, Any]


class CatalogService(catalog_pb2_grpc.CatalogServiceServicer):
    """Served beside QueryService."""

    def __init__(self, sites: Sites, sensors: Sensors) -> None:
        self._sites = sites
        self._sensors = sensors

    @answers
    async def CreateSite(self, request: catalog_pb2.CreateSiteRequest, context: _Context) -> catalog_pb2.CreateSiteResponse:
        site = await self._sites.create(read_site(request.site), request.request_id)
        return catalog_pb2.CreateSiteResponse(site=write_site(site))

    @answers
    async def GetSite(self, request: catalog_pb2.GetSiteRequest, context: _Context) -> catalog_pb2.GetSiteResponse:
        return catalog_pb2.GetSiteResponse(site=write_site(await self._sites.get(request.site_id)))

    @answers
    async def ListSites(self, request: catalog_pb2.ListSitesRequest, context: _Context) -> catalog_pb2.ListSitesResponse:
        sites, token = await self._sites.list(request.page_size, request.page_token, request.regions, request.source_type)
        return catalog_pb2.ListSitesResponse(sites=map(write_site, sites), next_page_token=token)

    @answers
    async def UpdateSite(self, request: catalog_pb2.UpdateSiteRequest, context: _Context) -> catalog_pb2.UpdateSiteResponse:
        site = await self._sites.update(read_site(request.site), request.update_mask.paths)
        return catalog_pb2.UpdateSiteResponse(site=write_site(site))

    @answers
    async def CreateSensor(self, request: catalog_pb2.CreateSensorRequest, context: _Context) -> catalog_pb2.CreateSensorResponse:
        sensor = await self._sensors.create(read_sensor(request.sensor), request.request_id)
        return catalog_pb2.CreateSensorResponse(sensor=write_sensor(sensor))

    @answers
    async def GetSensor(self, request: catalog_pb2.GetSensorRequest, context: _Context) -> catalog_pb2.GetSensorResponse:
        return catalog_pb2.GetSensorResponse(sensor=write_sensor(await self._sensors.get(request.sensor_id)))

    @answers
    async def ListSensors(self, request: catalog_pb2.ListSensorsRequest, context: _Context) -> catalog_pb2.ListSensorsResponse:
        sensors, token = await self._sensors.list(request.page_size, request.page_token, request.site_ids, request.state)
        return catalog_pb2.ListSensorsResponse(sensors=map(write_sensor, sensors), next_page_token=token)

    @answers
    async def UpdateSensor(self, request: catalog_pb2.UpdateSensorRequest, context: _Context) -> catalog_pb2.UpdateSensorResponse:
        sensor = await self._sensors.update(read_sensor(request.sensor), request.update_mask.paths)
        return catalog_pb2.UpdateSensorResponse(sensor=write_sensor(sensor))
