"""When the gateway stops for good or says what is missing, and what it does not let a server talk it into."""

import grpc
import pytest

from mesh.errors import Conflict, Fault, InvalidArgument, TooLarge, Unavailable
from mesh.gateway import Gateway
from tests.gateway.mesh_peer import MeshPeer, ServedStream, breaks_after, serve_all
from tests.gateway.quick import hand_over, ids_of, numbered, quick, until


async def test_a_server_that_never_acknowledges_makes_the_flush_say_what_is_missing() -> None:
    async def swallow(stream: ServedStream) -> None:
        await stream.open()
        while await stream.batch() is not None:
            pass

    async with MeshPeer(swallow) as peer:
        gateway = Gateway(quick(peer.target))
        with pytest.raises(Unavailable, match="40 readings of the live lane") as caught:
            await hand_over(gateway, numbered(0, 40), flush_s=0.2)
        assert caught.value.reason == "NOT_ACKNOWLEDGED"
        assert gateway.statistics.buffered == 40


async def test_leaving_with_something_unacknowledged_is_an_error() -> None:
    async def swallow(stream: ServedStream) -> None:
        await stream.open()
        while await stream.batch() is not None:
            pass

    async with MeshPeer(swallow) as peer:
        gateway = Gateway(quick(peer.target, close_timeout_s=0.2))
        with pytest.raises(Unavailable, match="15 readings"):
            async with gateway:
                await gateway.send(numbered(0, 15))


async def test_an_exception_inside_the_gateway_comes_out_as_it_is_and_at_once() -> None:
    async with MeshPeer(breaks_after(10**9, 0)) as peer:
        gateway = Gateway(quick(peer.target))

        async def fail_inside() -> None:
            async with gateway:
                await gateway.send(numbered(0, 15))
                raise KeyError

        with pytest.raises(KeyError):
            await fail_inside()
        assert gateway.statistics.buffered == 15


async def test_another_process_with_the_same_gateway_id_stops_this_one() -> None:
    taken = Conflict("gateway g-1 opened another live stream", reason="NEWER_STREAM")
    async with MeshPeer(breaks_after(1, 0, taken), serve_all) as peer:
        gateway = Gateway(quick(peer.target))
        with pytest.raises(Conflict, match="another live stream") as caught:
            await hand_over(gateway, numbered(0, 10))
        assert caught.value.reason == "NEWER_STREAM"
        assert len(peer.streams) == 1
        assert gateway.statistics.buffered == 10


async def test_what_the_server_said_is_not_lost_when_it_crosses_a_write() -> None:
    taken = Conflict("gateway g-1 opened another live stream", reason="NEWER_STREAM")
    for _ in range(40):
        async with MeshPeer(breaks_after(5, 2, taken), serve_all) as peer:
            gateway = Gateway(quick(peer.target))
            with pytest.raises(Conflict):
                await hand_over(gateway, numbered(0, 1000))
            assert len(peer.streams) == 1
            assert gateway.statistics.acknowledged == 20, "acks that came before the end are read"


async def test_a_sender_that_waits_for_room_learns_that_the_lane_stopped() -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.open()
        await stream.batch()
        await stream.fail(InvalidArgument("a gap", reason="SEQUENCE_GAP"))

    async with MeshPeer(serve) as peer:
        with pytest.raises(InvalidArgument, match="a gap"):
            async with Gateway(quick(peer.target, buffer_readings=20)) as gateway:
                await gateway.send(numbered(0, 1000))


async def test_a_region_that_the_server_refuses_stops_only_the_lane_that_used_it() -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.fail(InvalidArgument("open.region: '..' must be", reason="INVALID_REGION"))

    async with MeshPeer(serve, serve_all) as peer:
        gateway = Gateway(quick(peer.target))

        async def send_both() -> None:
            async with gateway:
                await gateway.send_backlog(numbered(0, 10))
                await until(lambda: gateway.statistics.backfill.last_error, "the backfill lane was refused")
                await gateway.send(numbered(10, 10))
                await until(lambda: gateway.statistics.live.acknowledged == 10, "the live lane went on")
                await gateway.flush(10)

        with pytest.raises(InvalidArgument, match=r"open\.region"):
            await send_both()
        assert gateway.statistics.live.acknowledged == 10


async def test_without_permission_it_stops() -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.abort(grpc.StatusCode.PERMISSION_DENIED, "not this gateway")

    async with MeshPeer(serve) as peer:
        with pytest.raises(Fault, match="not this gateway"):
            await hand_over(Gateway(quick(peer.target)), numbered(0, 10))
        assert len(peer.streams) == 1


async def test_a_frame_too_large_for_the_server_is_cut_until_it_fits() -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.open()
        while (sequence := await stream.batch()) is not None:
            if len(stream.batches[-1]) > 6:
                await stream.fail(TooLarge("received message larger than max"))
            await stream.ack(sequence)

    async with MeshPeer(serve) as peer:
        async with Gateway(quick(peer.target, max_batch_readings=50)) as gateway:
            await gateway.send(numbered(0, 100))
            await gateway.flush(10)
        assert ids_of(peer.streams[-1].batches) == list(range(100))
        assert gateway.statistics.acknowledged == 100


async def test_a_single_reading_that_is_too_large_stops_the_lane() -> None:
    async with MeshPeer(breaks_after(1, 0, TooLarge("received message larger than max"))) as peer:
        with pytest.raises(TooLarge):
            await hand_over(Gateway(quick(peer.target, max_batch_readings=4)), numbered(0, 4))


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"", b"GET / HTTP/1.1"])
async def test_garbage_from_the_server_ends_the_stream_not_the_gateway(garbage: bytes) -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.open()
        await stream.write(garbage)
        await stream.batch()

    async with MeshPeer(serve, serve_all) as peer, Gateway(quick(peer.target)) as gateway:
        await gateway.send(numbered(0, 10))
        await gateway.flush(10)
        assert gateway.statistics.acknowledged == 10


async def test_an_ack_for_what_was_never_sent_is_not_believed() -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.open()
        await stream.batch()
        await stream.ack(99)
        await stream.gone()

    async with MeshPeer(serve, serve_all) as peer, Gateway(quick(peer.target)) as gateway:
        await gateway.send(numbered(0, 20))
        await gateway.flush(10)
        assert "ACKNOWLEDGED_UNSENT" in gateway.statistics.last_error
        assert ids_of(peer.streams[1].batches) == list(range(20))
