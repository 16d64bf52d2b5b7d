"""What the gateway does when a stream ends, breaks or falls silent: it resends the unacknowledged tail in order, or stops."""

import asyncio

from waterquality.v1.ingest_pb2 import Rejection, RejectionReason

from mesh.clock import ManualClock
from mesh.codec.ingest_frames import write_closing
from mesh.errors import Unavailable
from mesh.gateway import Gateway
from tests.gateway.mesh_peer import MeshPeer, ServedStream, breaks_after, serve_all
from tests.gateway.quick import ids_of, numbered, quick, until
from tests.proxy import BreakableProxy


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
