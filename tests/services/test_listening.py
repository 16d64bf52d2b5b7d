"""Where a server listens, what it refuses to listen on, and that noise on its port hurts nobody else."""

import socket
from contextlib import suppress

import grpc
import pytest
from waterquality.v1 import catalog_pb2, catalog_pb2_grpc

from mesh.errors import SetupError
from mesh.listen import is_loopback
from mesh.server import make_server
from tests.services.hosting import Hosted

HTTP_1 = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PREFACE_THEN_NOISE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)) * 64


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "example.org", "127.evil.example"])
async def test_an_address_that_others_reach_needs_tls(host: str) -> None:
    with pytest.raises(SetupError, match="TLS") as caught:
        make_server(host, 0, [])
    assert caught.value.reason == "OPEN_WITHOUT_TLS"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_known_by_all_its_names(host: str) -> None:
    assert is_loopback(host)


async def test_a_busy_port_is_named_and_never_shared() -> None:
    first = make_server("127.0.0.1", 0, [])
    with pytest.raises(SetupError, match=rf"127\.0\.0\.1:{first.port}.*grpc_port.*0 takes a free one") as caught:
        make_server("127.0.0.1", first.port, [])
    assert caught.value.reason == "PORT_BUSY"
    await first.stop(0)


async def test_an_address_of_another_machine_is_told_from_a_busy_port() -> None:
    credentials = grpc.ssl_server_credentials([(b"", b"")])
    with pytest.raises(SetupError) as caught:
        make_server("192.0.2.7", 50051, [], credentials=credentials)
    assert caught.value.reason == "NO_SUCH_ADDRESS"


@pytest.mark.parametrize(
    "noise", [b"\x00" * 4096, b"\xff" * 70_000, HTTP_1, PREFACE_THEN_NOISE], ids=["zeros", "ones", "http1", "http2"]
)
def test_noise_on_the_port_does_not_disturb_another_caller(noise: bytes, grpc_server: Hosted) -> None:
    with grpc.insecure_channel(grpc_server.address) as channel:
        stub = catalog_pb2_grpc.CatalogServiceStub(channel)
        request = catalog_pb2.GetSiteRequest(site_id="weir")
        stub.GetSite(request, timeout=20)
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", grpc_server.server.port), timeout=20) as connection:
                swallow(connection, noise)
                assert stub.GetSite(request, timeout=20).site.site_id == "weir"


def swallow(connection: socket.socket, noise: bytes) -> None:
    """Sends it all, or as much as the server takes before it hangs up."""
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(noise)
