"""A webhook leads only where it may: which addresses are public, and that exactly a judged one is connected to."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from alert_svc import webhook_address
from alert_svc.webhook_address import LOOKUPS_AT_ONCE, Lookup, PinnedConnections, SystemLookup, is_public
from tests.alert.receiver import Receiver, receiving
from tests.alert.test_webhook import a_request

LOOPBACK = "127.0.0.1"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


def finding(*answers: Sequence[str]) -> tuple[Lookup, list[str]]:
    """A lookup that gives one answer after the other, and the names that it was asked for."""
    left, asked = list(answers), list[str]()

    async def look_up(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return left.pop(0)

    return look_up, asked


@pytest.mark.parametrize("address", ["8.8.8.8", "193.0.6.139", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
        *("192.0.2.1", "198.18.0.1", "224.0.0.1", "233.252.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
        *("::1", "::", "fe80::1", "fe80::1%lo", "fc00::1", "fec0::1", "ff0e::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001::1"),
    ],
)
def test_an_address_that_is_not_of_the_internet_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("found", [["127.0.0.1"], ["::1", "10.0.0.1"], ["::ffff:127.0.0.1"], ["169.254.169.254"], []])
async def test_a_name_that_leads_home_is_refused_naming_what_was_found(receiver: Receiver, found: list[str]) -> None:
    connections = PinnedConnections(private=False, lookup=finding(found)[0])
    with pytest.raises(httpx.ConnectError, match="are not public: .*webhook_private" if found else "are none"):
        await _status(connections, f"http://hook.example:{receiver.port}/hook?key=token")
    assert receiver.connections == 0


async def test_a_name_that_turns_to_loopback_between_two_tries_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: what is judged is what is connected to, at each try, and the system is not asked a second time."""
    monkeypatch.setattr(webhook_address, "is_public", lambda address: address == LOOPBACK)  # the receiver plays the internet
    look_up, asked = finding([LOOPBACK], ["127.0.0.2"])
    connections = PinnedConnections(private=False, lookup=look_up)
    url = f"http://hook.example:{receiver.port}/hook?key=token"
    assert await _status(connections, url) == 200
    with pytest.raises(httpx.ConnectError, match=r"127\.0\.0\.2"):
        await _status(connections, url)
    assert asked == ["hook.example"] * 2
    assert [received.host for received in receiver.received] == [f"hook.example:{receiver.port}"]


async def test_only_the_public_addresses_of_a_name_are_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_address, "is_public", lambda address: address == LOOPBACK)
    connections = PinnedConnections(private=False, lookup=finding(["10.0.0.1", LOOPBACK])[0])
    assert await _status(connections, f"http://hook.example:{receiver.port}/hook?key=token") == 200


async def test_the_next_address_is_tried_when_one_does_not_connect(receiver: Receiver) -> None:
    connections = PinnedConnections(private=True, lookup=finding(["::1", "127.0.0.9", LOOPBACK])[0])
    assert await _status(connections, f"http://hook.example:{receiver.port}/hook?key=token") == 200
    assert len(receiver.received) == 1


async def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await _status(PinnedConnections(private=True), receiver.url) == 200


async def test_the_certificate_is_that_of_the_name_though_the_address_is_connected_to(tmp_path: Path) -> None:
    _certificate(tmp_path, "hook.example")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    names: list[str | None] = []
    serving.sni_callback = lambda _socket, name, _context: names.append(name)
    tls = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    async with receiving(serving) as receiver:
        connections = PinnedConnections(True, finding([LOOPBACK], [LOOPBACK])[0], tls)
        assert await _status(connections, f"https://hook.example:{receiver.port}/hook?key=token") == 200
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await _status(connections, f"https://other.example:{receiver.port}/hook?key=token")
    assert names == ["hook.example", "other.example"]
    assert len(receiver.received) == 1


async def test_the_system_is_asked_for_addresses_and_an_unknown_name_is_said() -> None:
    lookup = SystemLookup()
    assert LOOPBACK in await lookup.look_up("localhost", 80)
    with pytest.raises(httpx.ConnectError, match=r"no\.such\.invalid"):
        await lookup.look_up("no.such.invalid", 80)


async def test_a_resolver_that_does_not_answer_holds_up_four_threads_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = threading.Semaphore(0), threading.Event()

    def stuck(*_: object, **__: object) -> list[object]:
        asked.release()
        go_on.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    monkeypatch.setattr(webhook_address, "LOOKUP_WITHIN_S", 0.2)
    lookup = SystemLookup()
    asking = [lookup.look_up("slow.example", 80) for _ in range(3 * LOOKUPS_AT_ONCE)]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(answer) for answer in answers} == {httpx.ConnectTimeout}
    assert sum(asked.acquire(blocking=False) for _ in answers) == LOOKUPS_AT_ONCE
    go_on.set()
    monkeypatch.setattr(webhook_address, "LOOKUP_WITHIN_S", 20.0)
    assert await lookup.look_up("slow.example", 80) == []


async def _status(connections: PinnedConnections, url: str) -> int:
    async with connections.answer(a_request(url)) as response:
        return response.status_code


def _certificate(folder: Path, name: str) -> None:
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -keyout key.pem -out cert.pem"
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*make.split(), *names], cwd=folder, check=True, capture_output=True, timeout=30)
