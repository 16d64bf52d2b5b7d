"""Fixtures of pytest-grpc, hosting our aio server instead of its synchronous one: the unserved services and one that serves."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from waterquality.v1 import catalog_pb2, catalog_pb2_grpc, query_pb2

from mesh.errors import NotFound
from mesh.server import Server, answers
from mesh.unserved import UNSERVED, unserved
from tests.services.hosting import Hosted, hosted

CATALOG = "waterquality.v1.CatalogService"
SERVICES = (CATALOG, "waterquality.v1.QueryService", *(service.full_name for service in UNSERVED))


class SmallCatalog:
    """Knows one site. Stands for any servicer of ours: what is tested is the shell around it."""

    @answers
    async def get_site(self, request: catalog_pb2.GetSiteRequest, context: Any) -> catalog_pb2.GetSiteResponse:
        if request.site_id == "defect":
            raise ZeroDivisionError("secret inner detail")
        if request.site_id != "weir":
            raise NotFound(
                f"site {request.site_id!r} does not exist", reason="SITE_NOT_FOUND", metadata={"site_id": request.site_id}
            )
        return catalog_pb2.GetSiteResponse(site=catalog_pb2.Site(site_id="weir", name="The weir"))

    async def watch(
        self, request: query_pb2.WatchReadingsRequest, context: Any
    ) -> AsyncIterator[query_pb2.WatchReadingsResponse]:
        """An async generator, the other way to stream."""
        for _ in range(3):
            yield query_pb2.WatchReadingsResponse()


def add_services(server: Server) -> None:
    """Everything that the hosted server answers."""
    catalog = SmallCatalog()
    read, write = catalog_pb2.GetSiteRequest.FromString, catalog_pb2.GetSiteResponse.SerializeToString
    get_site = grpc.unary_unary_rpc_method_handler(catalog.get_site, read, write)
    watch = grpc.unary_stream_rpc_method_handler(
        catalog.watch, query_pb2.WatchReadingsRequest.FromString, query_pb2.WatchReadingsResponse.SerializeToString
    )
    server.grpc.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(CATALOG, {"GetSite": get_site}),
            grpc.method_handlers_generic_handler("waterquality.v1.QueryService", {"WatchReadings": watch}),
            *(unserved(service) for service in UNSERVED),
        )
    )


@pytest.fixture(scope="module")
def grpc_server() -> Iterator[Hosted]:
    with hosted(SERVICES, add_services) as host:
        host.run(host.server.set_serving([CATALOG]))
        yield host


@pytest.fixture(scope="module")
def grpc_addr(grpc_server: Hosted) -> str:
    return grpc_server.address


@pytest.fixture(scope="module")
def grpc_stub_cls() -> Any:
    return catalog_pb2_grpc.CatalogServiceStub
