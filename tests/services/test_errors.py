"""Errors as a caller sees them: statuses with details, whoever was at fault."""

from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from waterquality.v1 import catalog_pb2

from mesh.errors import Fault, InvalidArgument, NotFound, Unsupported, WaterError, from_rpc
from mesh.unserved import UNSERVED

GARBAGE = b"\xff" * 40
METHODS = [method for service in UNSERVED for method in service.methods]


def failure(channel: Any, method: str, request: bytes, streams: bool = False) -> WaterError:
    """The error of a call with these bytes."""
    try:
        if streams:
            list(channel.unary_stream(method)(request, timeout=20))
        else:
            channel.unary_unary(method)(request, timeout=20)
    except grpc.RpcError as error:
        return from_rpc(error)
    raise AssertionError(f"{method} answered")


def test_an_error_of_ours_arrives_with_reason_and_metadata(grpc_stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        grpc_stub.GetSite(catalog_pb2.GetSiteRequest(site_id="mill"), timeout=20)
    error = from_rpc(caught.value)
    assert (type(error), error.reason, error.metadata) == (NotFound, "SITE_NOT_FOUND", {"site_id": "mill"})


def test_a_defect_shows_no_inner_detail(grpc_stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        grpc_stub.GetSite(catalog_pb2.GetSiteRequest(site_id="defect"), timeout=20)
    error = from_rpc(caught.value)
    assert (type(error), error.reason) == (Fault, "FAULT")
    assert "secret" not in error.message


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_an_rpc_that_is_not_built_says_so_by_name(method: MethodDescriptor, grpc_channel: grpc.Channel) -> None:
    request = message_factory.GetMessageClass(method.input_type)()
    name = f"{method.containing_service.full_name}/{method.name}"
    error = failure(grpc_channel, f"/{name}", request.SerializeToString(), method.server_streaming)
    assert (type(error), error.reason, error.metadata) == (Unsupported, "NOT_SERVED_YET", {"method": name})


@pytest.mark.parametrize(("method", "streams"), [("CatalogService/GetSite", False), ("QueryService/WatchReadings", True)])
def test_garbage_as_a_request_is_the_callers_fault(method: str, streams: bool, grpc_channel: grpc.Channel) -> None:
    error = failure(grpc_channel, f"/waterquality.v1.{method}", GARBAGE, streams)
    assert (type(error), error.reason) == (InvalidArgument, "UNREADABLE_REQUEST")
    assert method in error.message


def test_health_refuses_garbage_too(grpc_channel: grpc.Channel) -> None:
    assert failure(grpc_channel, "/grpc.health.v1.Health/Check", GARBAGE).reason == "UNREADABLE_REQUEST"


def test_a_servicer_that_is_a_generator_streams_as_it_is(grpc_channel: Any) -> None:
    assert len(list(grpc_channel.unary_stream("/waterquality.v1.QueryService/WatchReadings")(b"", timeout=20))) == 3


def test_a_request_beyond_the_limit_is_refused_without_being_read(grpc_channel: grpc.Channel) -> None:
    error = failure(grpc_channel, "/waterquality.v1.CatalogService/GetSite", b"\x00" * (1024 * 1024 + 5000))
    assert error.reason == "RESOURCE_EXHAUSTED"
