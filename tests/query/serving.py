"""QueryService and CatalogService on a real gRPC server, over a deployment of their own, with a board."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
from waterquality.v1 import catalog_pb2_grpc, query_pb2_grpc

from mesh import stages
from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.clock import SystemClock
from mesh.codec.tasks import write_board
from mesh.errors import WaterError, from_rpc
from mesh.ports import Exchange, Priority
from mesh.shards import transaction
from mesh.stages import Progress
from query_svc.board import Board
from query_svc.catalog_service import CatalogService
from query_svc.query_service import QueryService
from query_svc.status import PipelineStatus
from query_svc.watch import Watch
from tests.query.answering import Answering, answering
from tests.query.deployment import FreshDatabase, flag, running
from water.readings import Readings, empty

_T = TypeVar("_T")


@dataclass(slots=True)
class Serving:
    """Stubs of both services, and what stands behind them."""

    query: "query_pb2_grpc.QueryServiceAsyncStub"
    catalog: "catalog_pb2_grpc.CatalogServiceAsyncStub"
    asked: Answering
    watch: Watch
    exchange: Exchange

    async def show(self, readings: Readings, region: str = "north") -> None:
        """What changed on the board."""
        await self.exchange.publish(
            Priority.MEDIUM, write_board(region, readings if readings.flags is not None else flag(readings))
        )


@asynccontextmanager
async def serving(fresh_database: FreshDatabase) -> AsyncIterator[Serving]:
    clock = SystemClock()
    async with answering(fresh_database) as asked, open_postgres_exchange(await fresh_database(), clock) as exchange:
        mesh = asked.deployment
        async with transaction(mesh.catalog) as connection:
            await stages.create(connection)
        watch, progress = Watch(), Progress("board")
        board = Board(exchange, watch, "here", progress)
        status = PipelineStatus(mesh.log, mesh.catalog, mesh.recorded, clock)
        server = grpc.aio.server()
        query_pb2_grpc.add_QueryServiceServicer_to_server(QueryService(asked.answer, asked.places, watch, status, clock), server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogService(asked.sites, asked.sensors), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with running(board.run), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                query: query_pb2_grpc.QueryServiceAsyncStub = query_pb2_grpc.QueryServiceStub(channel)
                catalog: catalog_pb2_grpc.CatalogServiceAsyncStub = catalog_pb2_grpc.CatalogServiceStub(channel)
                served = Serving(query, catalog, asked, watch, exchange)
                while not progress.handled_count:  # until the board follows, what is shown is shown to nobody
                    await served.show(empty())
                    await asyncio.sleep(0.01)
                yield served
        finally:
            await server.stop(0)


async def error_of(call: Awaitable[object]) -> WaterError:
    """The error that a call ends with."""
    try:
        await call
    except grpc.RpcError as error:
        return from_rpc(error)
    raise AssertionError("the call should have failed")
