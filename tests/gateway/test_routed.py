"""A target with an address per service leads each call to its own, and a target with several addresses takes turns."""

from typing import Any, cast

import grpc
import pytest
from waterquality.v1 import alert_pb2, alert_pb2_grpc, ingest_pb2_grpc, query_pb2, query_pb2_grpc

from mesh.errors import SetupError
from mesh.routed import TAKE_TURNS, RoutedAioChannel, RoutedChannel, target_for

WHOLE = "ingest=ipv4:127.0.0.1:1,127.0.0.1:2; query=127.0.0.1:3;alert=127.0.0.1:4"


async def _status(request: object, context: object) -> query_pb2.GetPipelineStatusResponse:
    return query_pb2.GetPipelineStatusResponse(stages=[query_pb2.StageStatus(stage="here")])


async def _alerts(request: object, context: object) -> alert_pb2.ListAlertsResponse:
    return alert_pb2.ListAlertsResponse(next_page_token="there")


async def _serving(service: str, methods: dict[str, Any]) -> tuple[grpc.aio.Server, int]:
    """A server that has only these methods of a service."""
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(
            method, request_deserializer=bytes, response_serializer=lambda answer: answer.SerializeToString()
        )
        for name, method in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


def test_a_plain_target_is_for_every_service() -> None:
    assert target_for("127.0.0.1:50051", "alert") == "127.0.0.1:50051"
    assert target_for("ipv4:127.0.0.1:1,127.0.0.1:2", "ingest") == "ipv4:127.0.0.1:1,127.0.0.1:2"


def test_a_target_by_service_names_each() -> None:
    assert target_for(WHOLE, "ingest") == "ipv4:127.0.0.1:1,127.0.0.1:2"
    assert target_for(WHOLE, "query") == "127.0.0.1:3"


def test_a_service_that_is_not_named_and_one_that_does_not_exist_are_said() -> None:
    with pytest.raises(SetupError, match="does not say where archive is: add archive=HOST:PORT"):
        target_for(WHOLE, "archive")
    with pytest.raises(SetupError, match="'qeury' is none of ingest, query, alert, archive"):
        target_for("qeury=127.0.0.1:3", "query")


async def test_each_call_goes_to_the_address_of_its_service() -> None:
    query_server, query_port = await _serving("waterquality.v1.QueryService", {"GetPipelineStatus": _status})
    alert_server, alert_port = await _serving("waterquality.v1.AlertService", {"ListAlerts": _alerts})
    target = f"query=127.0.0.1:{query_port};alert=127.0.0.1:{alert_port}"
    async with RoutedAioChannel(target, grpc.aio.insecure_channel) as channel:
        await channel.channel_ready()
        query: Any = query_pb2_grpc.QueryServiceStub(cast("grpc.aio.Channel", channel))
        alerts: Any = alert_pb2_grpc.AlertServiceStub(cast("grpc.aio.Channel", channel))
        status = await query.GetPipelineStatus(query_pb2.GetPipelineStatusRequest(), timeout=10)
        assert [stage.stage for stage in status.stages] == ["here"]
        assert (await alerts.ListAlerts(alert_pb2.ListAlertsRequest(), timeout=10)).next_page_token == "there"
    for server in (query_server, alert_server):
        await server.stop(0)


def test_stubs_of_a_service_that_the_target_does_not_name_are_refused_with_its_name() -> None:
    with RoutedChannel("query=127.0.0.1:3", grpc.insecure_channel) as channel, pytest.raises(SetupError, match="ingest"):
        ingest_pb2_grpc.IngestServiceStub(cast("grpc.Channel", channel))


async def test_calls_take_turns_between_several_servers() -> None:
    seen: list[int] = []
    servers, ports = [], []
    for number in range(2):

        async def answer(request: object, context: object, number: int = number) -> query_pb2.GetPipelineStatusResponse:
            seen.append(number)
            return query_pb2.GetPipelineStatusResponse()

        server, port = await _serving("waterquality.v1.QueryService", {"GetPipelineStatus": answer})
        servers.append(server)
        ports.append(port)
    target = f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
    async with grpc.aio.insecure_channel(target, options=[TAKE_TURNS]) as channel:
        await channel.channel_ready()
        while len(set(seen)) < 2:
            stub: Any = query_pb2_grpc.QueryServiceStub(channel)
            await stub.GetPipelineStatus(query_pb2.GetPipelineStatusRequest(), timeout=10)
    assert set(seen) == {0, 1}
    for server in servers:
        await server.stop(0)
