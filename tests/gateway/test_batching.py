"""How batches are made and how much is on its way: count, age, limits, windows, and what happens when the buffer is full."""

import asyncio

import numpy as np
import pytest
from waterquality.v1.ingest_pb2 import Rejection, RejectionReason

from mesh.clock import ManualClock
from mesh.errors import FailedPrecondition, SetupError, Unavailable
from mesh.gateway import Acknowledgement, Gateway
from tests.builders import some_readings
from tests.gateway.mesh_peer import MeshPeer, ServedStream
from tests.gateway.quick import ids_of, numbered, quick, until


async def test_readings_arrive_once_in_order_in_batches_of_the_set_size() -> None:
    async with MeshPeer() as peer:
        async with Gateway(quick(peer.target)) as gateway:
            for first in range(0, 95, 5):
                await gateway.send(numbered(first, 5))
            await gateway.flush(10)
        (stream,) = peer.streams
        assert ids_of(stream.batches) == list(range(95))
        assert max(len(batch) for batch in stream.batches) == 10
        assert peer.breaches == []
        assert (stream.opening.gateway_id, stream.opening.region, stream.opening.backfill) == ("g-1", "north", False)


async def test_values_arrive_unchanged() -> None:
    readings = some_readings(500, absent=0.3)
    async with MeshPeer() as peer:
        async with Gateway(quick(peer.target)) as gateway:
            await gateway.send(readings)
        np.testing.assert_array_equal(np.concatenate([b.values for b in peer.streams[0].batches], axis=1), readings.values)


async def test_a_batch_that_is_not_full_goes_when_it_is_old_enough() -> None:
    async with MeshPeer() as peer, Gateway(quick(peer.target, max_batch_age_s=0.02)) as gateway:
        await gateway.send(numbered(0, 3))
        await until(lambda: gateway.statistics.acknowledged == 3, "the batch of 3 was sent by age")


async def test_a_flush_does_not_wait_for_age() -> None:
    async with MeshPeer() as peer, Gateway(quick(peer.target, max_batch_age_s=3600)) as gateway:
        await gateway.send(numbered(0, 3))
        await gateway.flush(10)
        assert gateway.statistics.acknowledged == 3


async def test_leaving_the_gateway_sends_and_reads_the_last_ack() -> None:
    async def acknowledge_at_the_end(stream: ServedStream) -> None:
        await stream.open()
        while await stream.batch() is not None:
            if len(stream.batches) == 3:
                await stream.ack(2)
                await stream.ack(3)

    async with MeshPeer(acknowledge_at_the_end) as peer:
        async with Gateway(quick(peer.target, max_batch_age_s=3600)) as gateway:
            await gateway.send(numbered(0, 25))
        assert gateway.statistics.acknowledged == 25
        assert gateway.statistics.buffered == 0


@pytest.mark.parametrize("limits", [(7, 512 * 1024), (10_000, 1000)])
async def test_the_limits_of_a_batch_are_the_servers(limits: tuple[int, int]) -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.open(limits=limits)
        await stream.acknowledge_the_rest()

    async with MeshPeer(serve) as peer:
        async with Gateway(quick(peer.target, max_batch_readings=5000)) as gateway:
            await gateway.send(some_readings(2000))
        assert peer.breaches == []
        assert sum(len(batch) for batch in peer.streams[0].batches) == 2000


@pytest.mark.parametrize("window", [(1, 1 << 40), (3, 1 << 40), (64, 700), (64, 2000)])
async def test_never_more_unacknowledged_than_the_window(window: tuple[int, int]) -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.open(window=window)
        await stream.acknowledge_the_rest()

    async with MeshPeer(serve) as peer:
        async with Gateway(quick(peer.target)) as gateway:
            await gateway.send(some_readings(500))
        assert peer.breaches == []
        assert sum(len(batch) for batch in peer.streams[0].batches) == 500


async def test_a_window_of_zero_pauses_until_an_ack_opens_it() -> None:
    opened, paused = asyncio.Event(), asyncio.Event()

    async def serve(stream: ServedStream) -> None:
        await stream.open(window=(1, 1 << 40))
        await stream.ack(await stream.batch() or 0, window=(0, 0))
        paused.set()
        await opened.wait()
        await stream.ack(stream.durable, window=(1, 1 << 40))
        await stream.acknowledge_the_rest()

    async with MeshPeer(serve) as peer, Gateway(quick(peer.target)) as gateway:
        await gateway.send(numbered(0, 50))
        await paused.wait()
        await until(lambda: gateway.statistics.live.window_batches == 0, "the gateway learnt of the pause")
        with pytest.raises(Unavailable):
            await gateway.flush(0.05)
        assert gateway.statistics.transmitted == 10
        opened.set()
        await gateway.flush(10)
        assert peer.breaches == []
        assert gateway.statistics.transmitted == 50


async def test_a_window_smaller_than_a_batch_cuts_the_batch() -> None:
    async def serve(stream: ServedStream) -> None:
        await stream.open(window=(1, 1 << 40))
        await stream.ack(await stream.batch() or 0, window=(2, 400))
        await stream.acknowledge_the_rest()

    async with MeshPeer(serve) as peer:
        async with Gateway(quick(peer.target, max_batch_readings=50)) as gateway:
            await gateway.send(some_readings(200))
        assert len(peer.streams[0].batches[0]) == 50
        assert max(peer.streams[0].sizes[1:]) <= 400
        assert sum(len(batch) for batch in peer.streams[0].batches) == 200


async def test_a_backlog_travels_on_a_stream_of_its_own_and_only_when_there_is_one() -> None:
    async with MeshPeer() as peer, Gateway(quick(peer.target)) as gateway:
        await gateway.send(numbered(0, 20))
        await gateway.flush(10)
        assert [stream.opening.backfill for stream in peer.streams] == [False]
        await gateway.send_backlog(numbered(100, 20))
        await gateway.flush(10)
        assert [stream.opening.backfill for stream in peer.streams] == [False, True]
        assert ids_of(peer.streams[1].batches) == list(range(100, 120))
        assert gateway.statistics.live.acknowledged == gateway.statistics.backfill.acknowledged == 20
        assert gateway.statistics.positions == ("position-2", "position-2")


async def test_a_backlog_that_is_not_acknowledged_does_not_delay_live_readings() -> None:
    done = asyncio.Event()

    async def serve(stream: ServedStream) -> None:
        await stream.open(window=(2, 1 << 40))
        if stream.opening.backfill:
            await done.wait()
        await stream.acknowledge_the_rest()

    async with MeshPeer(serve) as peer, Gateway(quick(peer.target)) as gateway:
        await gateway.send_backlog(numbered(1000, 500))
        await gateway.send(numbered(0, 100))
        await until(lambda: gateway.statistics.live.acknowledged == 100, "live readings passed the backlog")
        assert gateway.statistics.backfill.acknowledged == 0
        done.set()
        await gateway.flush(10)


async def test_a_full_buffer_makes_the_sender_wait() -> None:
    done = asyncio.Event()

    async def serve(stream: ServedStream) -> None:
        await stream.open()
        await done.wait()
        await stream.acknowledge_the_rest()

    async with MeshPeer(serve) as peer, Gateway(quick(peer.target, buffer_readings=30)) as gateway:
        sending = asyncio.create_task(gateway.send(numbered(0, 100)))
        await until(lambda: gateway.statistics.buffered == 30, "the buffer filled up")
        assert not sending.done()
        assert gateway.statistics.handed_over == 30
        done.set()
        await sending
        await gateway.flush(10)
        assert ids_of(peer.streams[0].batches) == list(range(100))


async def test_a_full_buffer_drops_the_oldest_where_that_is_the_policy_and_counts_them() -> None:
    done = asyncio.Event()

    async def serve(stream: ServedStream) -> None:
        await stream.open(window=(2, 1 << 40))
        await stream.batch()
        await stream.batch()
        await done.wait()
        await stream.ack(2)
        await stream.acknowledge_the_rest()

    settings = {"buffer_readings": 50, "when_full": "drop_oldest"}
    async with MeshPeer(serve) as peer, Gateway(quick(peer.target, **settings)) as gateway:
        await gateway.send(numbered(0, 20))
        await until(lambda: gateway.statistics.live.in_flight_batches == 2, "two batches were on their way")
        for first in range(20, 120, 10):
            await gateway.send(numbered(first, 10))
        assert gateway.statistics.buffered <= 50
        assert gateway.statistics.dropped >= 70
        done.set()
        await gateway.flush(10)
        statistics = gateway.statistics
        assert statistics.handed_over == statistics.acknowledged + statistics.dropped == 120
        received = ids_of(peer.streams[0].batches)
        assert received == sorted(set(received))
        assert received[:20] == list(range(20))
        assert received[-1] == 119


async def test_refusals_are_counted_by_reason_when_their_batch_is_durable() -> None:
    reasons = RejectionReason.REJECTION_REASON_IN_THE_FUTURE, RejectionReason.REJECTION_REASON_NO_VALUES

    async def serve(stream: ServedStream) -> None:
        await stream.open()
        while (sequence := await stream.batch()) is not None:
            first = Rejection(sequence=sequence, reason=reasons[0], reading_count=2, indexes=[0, 1])
            second = Rejection(sequence=sequence, reason=reasons[1], reading_count=1, indexes=[5])
            await stream.ack(sequence - 1, [first, second])
            await stream.ack(sequence)

    acknowledgements: list[Acknowledgement] = []
    async with MeshPeer(serve) as peer, Gateway(quick(peer.target), on_ack=acknowledgements.append) as gateway:
        await gateway.send(numbered(0, 40))
        await gateway.flush(10)
        assert gateway.statistics.refused == {reasons[0]: 8, reasons[1]: 4}
        assert gateway.statistics.acknowledged == 40
        assert gateway.statistics.accepted == 28
        assert sum(ack.readings for ack in acknowledgements) == 40
        assert sum(count for ack in acknowledgements for count in ack.refused.values()) == 12


async def test_a_clock_far_from_the_servers_shows_in_the_statistics(clock: ManualClock) -> None:
    async with MeshPeer() as peer:
        clock.advance(90)
        async with Gateway(quick(peer.target), clock=clock) as gateway:
            await gateway.send(numbered(0, 1))
            await gateway.flush(10)
            assert gateway.statistics.clock_drift_s == 90.0


async def test_nothing_can_be_handed_to_a_gateway_that_is_closed_or_not_entered() -> None:
    async with MeshPeer() as peer:
        gateway = Gateway(quick(peer.target))
        with pytest.raises(FailedPrecondition, match="enter the gateway first"):
            await gateway.send(numbered(0, 1))
        async with gateway:
            await gateway.send(numbered(0, 1))
        with pytest.raises(FailedPrecondition, match="closed"):
            await gateway.send(numbered(1, 1))


@pytest.mark.parametrize(
    "changes",
    [{"buffer_readings": 0}, {"max_batch_readings": 0}, {"ack_timeout_s": 0}, {"backoff_max_s": 0.0001}, {"when_full": "x"}],
)
def test_a_limit_that_cannot_work_is_refused_by_name(changes: dict[str, object]) -> None:
    with pytest.raises(SetupError, match=next(iter(changes))):
        quick("127.0.0.1:1", **changes)
