"""Whatever comes to the port, only the one who sent it notices: noise, other protocols, halves of calls, silence."""

import asyncio
import random
import ssl
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import grpc
import pytest

from mesh.errors import InvalidArgument, Unavailable
from tests.builders import a_reading, some_readings
from tests.engines import reachable_folder
from tests.flows import raw
from tests.flows.accounts import Account, account_of
from tests.flows.deaf import deaf_gateways
from tests.flows.healthy import Healthy
from tests.flows.process import System, eventually, free_port
from tests.ingest.peer import connected

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


def client_hello() -> bytes:
    """What a TLS client says first."""
    sent = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="mesh.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


NOISE = {
    "zeros": bytes(4096),
    "ones": b"\xff" * 70_000,
    "random": random.Random(7).randbytes(100_000),
    "http1": b"GET /waterquality HTTP/1.1\r\nHost: mesh\r\nConnection: Upgrade\r\n\r\n" * 4,
    "tls": client_hello(),
    "protobuf": raw.open_message("nobody") + raw.batch_message(1, some_readings(100)),
    "http2": raw.PREFACE + bytes(range(256)) * 64,
    "settings": raw.PREFACE + raw.http2_frame(raw.SETTINGS, 0, 0, b"\xff" * 5),
    "huge frame": raw.PREFACE + raw.http2_frame(raw.SETTINGS, 0, 0, b"") + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
async def test_noise_is_hung_up_on(noise: bytes, target: str) -> None:
    async def hang_up() -> None:
        async with raw.connection(target) as (reader, writer):
            writer.write(noise)
            async with asyncio.timeout(20):
                while await _read(reader):
                    pass

    await asyncio.gather(*(hang_up() for _ in range(20)))


async def test_connections_and_calls_that_say_nothing_keep_nobody_from_anything(target: str, healthy: Healthy) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(200):
            await stack.enter_async_context(raw.connection(target))
        for _ in range(200):
            _, writer = await stack.enter_async_context(raw.connection(target))
            writer.write(raw.PREFACE + raw.http2_frame(raw.SETTINGS, 0, 0, b"") + raw.call_headers(raw.STREAM_BATCHES, target))
        peers = await stack.enter_async_context(connected(target, 200))
        async with asyncio.timeout(20):
            errors = await asyncio.gather(*(peer.failure() for peer in peers))
        assert {(type(error), error.reason) for error in errors} == {(InvalidArgument, "NOT_OPENED")}
        assert "no frame came within 3 s" in errors[0].message


async def test_streams_that_open_and_then_say_nothing_do_not_disturb(target: str, healthy: Healthy) -> None:
    async with connected(target, 200) as peers:
        await asyncio.gather(*(peer.open(f"quiet-{number}") for number, peer in enumerate(peers)))
        await healthy.streams(201)
        before = healthy.acknowledged
        await eventually(lambda: healthy.acknowledged > before + 2000, 20, lambda: f"slow: {healthy.acknowledged - before}")
        await peers[-1].send(1, a_reading(77))
        await peers[-1].acknowledged(1)
    assert await account_of(target, "quiet-199") == Account(accepted=1, stored=1)


@pytest.mark.parametrize("half", ["headers", "prefix", "batch"])
async def test_a_gateway_that_is_cut_off_in_the_middle_of_a_frame_loses_only_that_frame(
    half: str, target: str, healthy: Healthy
) -> None:
    """Twenty of them. What was whole is stored: in the Log before the cut or not, it never is a part of a batch."""
    gateway_ids = [f"cut-{half}-{number}" for number in range(20)]
    whole, broken = some_readings(50, sensors=[5000]), some_readings(50, sensors=[5001])

    async def cut(gateway_id: str) -> None:
        opening = raw.PREFACE + raw.http2_frame(raw.SETTINGS, 0, 0, b"") + raw.call_headers(raw.STREAM_BATCHES, target)
        content = raw.open_message(gateway_id) + raw.batch_message(1, whole)
        begun = raw.batch_message(2, broken)
        async with raw.connection(target) as (reader, writer):
            writer.write(opening + raw.http2_frame(raw.DATA, 0, 1, content))
            await _until_acknowledged(reader)
            match half:
                case "headers":
                    writer.write(raw.http2_frame(raw.DATA, 0, 1, begun)[:5])
                case "prefix":
                    writer.write(raw.http2_frame(raw.DATA, 0, 1, begun[:3]))
                case "batch":
                    writer.write(raw.http2_frame(raw.DATA, 0, 1, begun)[:-7])
            await writer.drain()

    await asyncio.gather(*(cut(gateway_id) for gateway_id in gateway_ids))
    await healthy.streams(1)
    account = await account_of(target, *gateway_ids)
    assert (account.accepted, account.refused) == (20 * 50, {})
    assert (account.stored, account.duplicate) in ((50, 19 * 50), (0, 20 * 50))


async def test_a_small_frame_that_unpacks_to_a_huge_one_is_refused_unpacked(target: str, healthy: Healthy) -> None:
    before = healthy.rss_bytes()
    async with grpc.aio.insecure_channel(target, options=[("grpc.max_send_message_length", -1)]) as channel:
        submit: Any = channel.unary_unary("/waterquality.v1.IngestService/SubmitBatch")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await submit(bytes(100 * 2**20), compression=grpc.Compression.Gzip, timeout=60)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert healthy.rss_bytes() < before + 64 * 2**20


@pytest.mark.parametrize("method", ["/waterquality.v1.IngestService/Nothing", "/nothing", "/../../etc/passwd"])
async def test_a_method_that_does_not_exist_is_said_to_be_unimplemented(method: str, target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(method)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=20)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_drain_lets_go_of_gateways_that_never_half_close_and_does_not_wait_for_one_that_never_reads() -> None:
    with reachable_folder() as folder:
        system = System(folder / "data", free_port(), environment={"WQ_DRAIN_S": "2"})
        try:
            await system.start()
            async with connected(system.target, 3) as (silent, sending, unopened):
                await silent.open("silent")
                await sending.open("sending")
                await sending.send(1, some_readings(20))
                with deaf_gateways(system.target, "deaf") as (deaf,):
                    await eventually(lambda: deaf.is_stuck, 20, lambda: "it can still send")
                    begun = monotonic()
                    stopping = asyncio.create_task(system.stop())
                    frame = await silent.read()
                    assert frame.WhichOneof("frame") == "closing"
                    await sending.acknowledged(1)
                    failures = [await peer.failure() for peer in (silent, sending, unopened)]
                    assert await stopping == 0
                    assert monotonic() - begun < 15, "far from the 30 s after which its acknowledgements count as not read"
            assert {failure.reason for failure in failures[:2]} == {"SHUTTING_DOWN"}
            assert all(isinstance(failure, Unavailable) for failure in failures)
            assert "stored 20 readings" in system.output()
        finally:
            system.clean_up()


async def _until_acknowledged(reader: asyncio.StreamReader) -> None:
    """Reads until an acknowledgement of batch 1 has come: the only frames with a position, whose token is base64 of JSON."""
    seen = b""
    async with asyncio.timeout(20):
        while b"eyJ" not in seen:
            seen += await reader.read(1 << 16)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 16)
    except ConnectionResetError:
        return b""
