"""What the gateway does when a stream ends, breaks or falls silent: it resends the unacknowledged tail in order, or stops."""

import asyncio

import grpc
import pytest
from waterquality.v1.ingest_pb2 import Rejection, RejectionReason

from mesh.clock import ManualClock
from mesh.codec.ingest_frames import write_closing
from mesh.errors import Conflict, Fault, InvalidArgument, TooLarge, Unavailable, WaterError
from mesh.gateway import Gateway
from tests.gateway.mesh_peer import MeshPeer, Script, ServedStream, serve_all
from tests.gateway.quick import hand_over, ids_of, numbered, quick, until
from tests.proxy import BreakableProxy


def breaks_after(batches: int, acknowledged: int, error: WaterError | None = None) -> Script:
    """Reads so many batches, acknowledges some of them, and fails."""

    async def serve(stream: ServedStream) -> None:
        await stream.open()
        for _ in range(batches):
            await stream.batch()
        if acknowledged:
            await stream.ack(acknowledged)
        await stream.fail(error or Unavailable("broken by the test", retry_after_s=0.001))

    return serve


async def test_the_unacknowledged_tail_is_resent_in_order_on_a_new_stream() -> None:
    async with MeshPeer(breaks_after(5, 2), serve_all) as peer:
        async with Gateway(quick(peer.target)) as gateway:
            await gateway.send(numbered(0, 100))
            await gateway.flush(10)
        assert ids_of(peer.streams[1].batches) == list(range(20, 100))
        assert peer.breaches == []
        statistics = gateway.statistics
        assert statistics.reconnects == 1
        assert statistics.acknowledged == statistics.handed_over == 100
        assert statistics.transmitted >= 130
        assert "broken by the test" in statistics.last_error


async def test_a_server_that_acknowledges_nothing_before_it_breaks_gets_everything_again() -> None:
    async with MeshPeer(*[breaks_after(3, 0)] * 4, serve_all) as peer:
        async with Gateway(quick(peer.target)) as gateway:
            await gateway.send(numbered(0, 50))
        assert ids_of(peer.streams[4].batches) == list(range(50))
        assert gateway.statistics.reconnects == 4


async def test_refusals_of_a_batch_that_was_not_acknowledged_are_counted_once() -> None:
    async def refuse(stream: ServedStream, is_last: bool) -> None:
        await stream.open()
        await stream.batch()
        reason = RejectionReason.REJECTION_REASON_TOO_OLD
        await stream.ack(0, [Rejection(sequence=1, reason=reason, reading_count=10)])
        if not is_last:
            await stream.fail(Unavailable("gone", retry_after_s=0.001))
        await stream.ack(1)
        await stream.acknowledge_the_rest()

    async with MeshPeer(lambda s: refuse(s, False), lambda s: refuse(s, True)) as peer:
        async with Gateway(quick(peer.target)) as gateway:
            await gateway.send(numbered(0, 10))
        assert gateway.statistics.refused == {4: 10}


async def test_a_connection_cut_in_the_middle_of_a_frame_loses_nothing() -> None:
    async with MeshPeer() as peer, BreakableProxy(peer.port) as proxy:
        async with Gateway(quick(proxy.target, max_batch_readings=500)) as gateway:
            await gateway.send(numbered(0, 500))
            await gateway.flush(10)
            for round_number in range(1, 4):
                proxy.cut_after(6_000)
                await gateway.send(numbered(round_number * 10_000, 5_000))
                await gateway.flush(10)
        assert gateway.statistics.reconnects >= 3
        received = {sensor for stream in peer.streams for sensor in ids_of(stream.batches)}
        assert received == {*range(500), *(r * 10_000 + n for r in range(1, 4) for n in range(5_000))}
        assert peer.breaches == []


async def test_a_half_open_connection_is_given_up_and_left_behind() -> None:
    async with MeshPeer() as peer, BreakableProxy(peer.port) as proxy, Gateway(quick(proxy.target, ack_timeout_s=0.1)) as gateway:
        await gateway.send(numbered(0, 10))
        await gateway.flush(10)
        proxy.pause()
        await gateway.send(numbered(10, 10))
        await until(lambda: "NO_ACKNOWLEDGEMENT" in gateway.statistics.last_error, "the silence was noticed")
        proxy.resume()
        await gateway.flush(10)
        assert gateway.statistics.acknowledged == 20
        assert gateway.statistics.reconnects >= 1


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


async def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    async with MeshPeer() as peer, BreakableProxy(peer.port) as proxy:
        proxy.refuse()
        async with Gateway(quick(proxy.target)) as gateway:
            await gateway.send(numbered(0, 30))
            await until(lambda: proxy.accepted_count >= 3, "it was tried again and again")
            assert gateway.statistics.last_error
            proxy.refuse(False)
            await gateway.flush(10)
        assert ids_of(peer.streams[0].batches) == list(range(30))


async def test_a_server_that_never_opens_is_left_after_the_deadline() -> None:
    async def mute(stream: ServedStream) -> None:
        await stream.gone()

    async with MeshPeer(mute, serve_all) as peer, Gateway(quick(peer.target, connect_timeout_s=0.2)) as gateway:
        await gateway.send(numbered(0, 10))
        await gateway.flush(10)
        assert "did not open" in gateway.statistics.last_error


async def test_the_server_is_not_asked_again_before_its_retry_info_says() -> None:
    clock = ManualClock(0)
    overloaded = Unavailable("overloaded", retry_after_s=60)
    async with MeshPeer(breaks_after(1, 0, overloaded), serve_all) as peer, Gateway(quick(peer.target), clock=clock) as gateway:
        await gateway.send(numbered(0, 10))
        await until(lambda: clock.sleeping, "the gateway waited")
        clock.advance(59.9)
        assert clock.sleeping == 1
        assert len(peer.streams) == 1
        clock.advance(60 * 0.25 + 0.1)
        await gateway.flush(10)
        assert len(peer.streams) == 2


async def test_a_closing_server_gets_no_new_batch_and_its_acks_are_read() -> None:
    clock = ManualClock(0)

    async def close(stream: ServedStream) -> None:
        await stream.open()
        for _ in range(3):
            await stream.batch()
        await stream.write(write_closing(10))
        while await stream.batch() is not None:
            pass
        await stream.ack(stream.sequences[-1])

    async with MeshPeer(close, serve_all) as peer, Gateway(quick(peer.target), clock=clock) as gateway:
        await gateway.send(numbered(0, 30))
        await until(lambda: clock.sleeping, "the first stream ended")
        assert gateway.statistics.acknowledged == 30
        await gateway.send(numbered(30, 20))
        clock.advance(1)
        await gateway.flush(10)
        assert ids_of(peer.streams[1].batches) == list(range(30, 50))
        assert gateway.statistics.last_error == ""


async def test_a_closing_server_is_left_when_its_grace_is_over() -> None:
    async def close(stream: ServedStream) -> None:
        await stream.open()
        await stream.batch()
        await stream.write(write_closing(0.1))
        await stream.gone()

    async with MeshPeer(close, serve_all) as peer:
        async with Gateway(quick(peer.target)) as gateway:
            await gateway.send(numbered(0, 30))
            await gateway.flush(10)
        assert ids_of(peer.streams[1].batches) == list(range(30))


async def test_another_process_with_the_same_gateway_id_stops_this_one() -> None:
    taken = Conflict("gateway g-1 opened another live stream", reason="NEWER_STREAM")
    async with MeshPeer(breaks_after(1, 0, taken), serve_all) as peer:
        gateway = Gateway(quick(peer.target))
        with pytest.raises(Conflict, match="another live stream") as caught:
            await hand_over(gateway, numbered(0, 10))
        assert caught.value.reason == "NEWER_STREAM"
        assert len(peer.streams) == 1
        assert gateway.statistics.buffered == 10


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


async def test_a_slow_reader_bounds_what_is_held() -> None:
    done = asyncio.Event()

    async def serve(stream: ServedStream) -> None:
        await stream.open()
        await done.wait()
        await stream.acknowledge_the_rest()

    async with (
        MeshPeer(serve) as peer,
        Gateway(quick(peer.target, max_batch_readings=5000, buffer_readings=100_000)) as gateway,
    ):
        sending = [asyncio.create_task(gateway.send(numbered(n * 100_000, 100_000))) for n in range(3)]
        await until(lambda: gateway.statistics.buffered == 100_000, "the buffer filled up")
        assert gateway.statistics.live.in_flight_batches <= 64
        done.set()
        await asyncio.gather(*sending)
        await gateway.flush(15)
        assert gateway.statistics.acknowledged == 300_000
        assert peer.breaches == []
