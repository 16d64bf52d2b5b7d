"""What a stranger can find out about a running server: its services by reflection, and whether each of them serves."""

import json
import subprocess
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.programs import program
from tests.services.conftest import CATALOG, SERVICES, add_services
from tests.services.hosting import hosted

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def health(channel: grpc.Channel, service: str) -> Any:
    return HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=20).status


def test_reflection_names_every_service_and_describes_it(grpc_channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(grpc_channel)
    assert {*SERVICES, "grpc.health.v1.Health"} <= set(database.get_services())
    file = database.FindFileContainingSymbol(CATALOG)
    assert file.name == "waterquality/v1/catalog.proto"
    assert database.FindFileContainingSymbol(f"{CATALOG}.GetSite").name == file.name, "a method is a symbol too"


def test_health_tells_served_from_unserved(grpc_channel: grpc.Channel) -> None:
    assert {name: health(grpc_channel, name) for name in ("", *SERVICES)} == {
        name: SERVING if name in ("", CATALOG) else NOT_SERVING for name in ("", *SERVICES)
    }


def test_health_does_not_know_other_services(grpc_channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health(grpc_channel, "waterquality.v1.NoSuchService")
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_server_serves_nothing_before_it_says_so_and_nothing_while_it_drains() -> None:
    with hosted(SERVICES, add_services) as host, grpc.insecure_channel(host.address) as channel:
        assert health(channel, "") == NOT_SERVING
        host.run(host.server.set_serving([CATALOG]))
        assert (health(channel, ""), health(channel, CATALOG)) == (SERVING, SERVING)
        host.run(host.server.set_not_serving())
        assert (health(channel, ""), health(channel, CATALOG)) == (NOT_SERVING, NOT_SERVING)


def test_grpcurl_lists_describes_and_calls(grpc_addr: str) -> None:
    grpcurl = program("grpcurl")

    def run(*arguments: str) -> str:
        return subprocess.run([grpcurl, *arguments], capture_output=True, text=True, timeout=60, check=True).stdout

    assert set(SERVICES) <= set(run("-plaintext", grpc_addr, "list").split())
    assert "rpc GetSite" in run("-plaintext", grpc_addr, "describe", CATALOG)
    with pytest.raises(subprocess.CalledProcessError) as unknown:
        run("-plaintext", grpc_addr, "describe", f"{CATALOG}.NoSuchMethod")
    assert "not found" in unknown.value.stderr.lower()
    answer = json.loads(run("-plaintext", "-d", '{"site_id": "weir"}', grpc_addr, f"{CATALOG}/GetSite"))
    assert answer == {"site": {"site_id": "weir", "name": "The weir"}}
