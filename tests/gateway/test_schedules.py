"""Random schedules of disconnects and partial acks over real gRPC: law 2 as the gateway sees it."""

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import Unavailable
from mesh.gateway import Gateway, GatewayStatistics
from tests.gateway.mesh_peer import MeshPeer, Script, ServedStream, serve_all
from tests.gateway.quick import ids_of, numbered, quick


@dataclass(frozen=True)
class Broken:
    """A stream that fails after so many batches, or falls silent when no more come; `acked[i]`: whether it acks the i-th."""

    acked: tuple[bool, ...]
    window: int
    limit: int

    @property
    def script(self) -> Script:
        async def serve(stream: ServedStream) -> None:
            await stream.open(window=(self.window, 1 << 40), limits=(self.limit, 512 * 1024))
            for is_acked in self.acked:
                sequence = await stream.batch()
                if sequence is None:
                    return
                if is_acked or sequence - stream.durable >= self.window:
                    await stream.ack(sequence)
            await stream.fail(Unavailable("scheduled", retry_after_s=0.001))

        return serve


STREAMS = st.lists(
    st.builds(Broken, st.lists(st.booleans(), max_size=8).map(tuple), st.integers(1, 5), st.integers(1, 12)), max_size=5
)
SENDS = st.lists(st.integers(1, 60), min_size=1, max_size=8)


async def run(schedule: list[Broken], sends: list[int], when_full: str) -> tuple[MeshPeer, GatewayStatistics, int]:
    async with MeshPeer(*(broken.script for broken in schedule), serve_all) as peer:
        made = quick(peer.target, buffer_readings=80, when_full=when_full, max_batch_age_s=0.0, ack_timeout_s=0.1)
        async with Gateway(made) as gateway:
            total = 0
            for count in sends:
                await gateway.send(numbered(total, count))
                total += count
            await gateway.flush(20)
        return peer, gateway.statistics, total


def acknowledged_ids(peer: MeshPeer) -> list[int]:
    return [sensor for stream in peer.streams for sensor in ids_of(stream.batches[: stream.durable])]


@settings(max_examples=40, deadline=None)
@given(STREAMS, SENDS)
def test_every_reading_is_acknowledged_whatever_breaks(schedule: list[Broken], sends: list[int]) -> None:
    peer, statistics, total = asyncio.run(run(schedule, sends, "wait"))
    assert peer.breaches == []
    assert set(acknowledged_ids(peer)) == set(range(total))
    assert statistics.acknowledged == statistics.handed_over == total
    received = [ids_of(stream.batches) for stream in peer.streams]
    for ids in received:
        assert ids == list(range(ids[0], ids[0] + len(ids))) if ids else True
    assert sum(map(len, received)) <= statistics.transmitted
    if statistics.reconnects == 0:
        assert statistics.transmitted == sum(map(len, received)) == total


@settings(max_examples=20, deadline=None)
@given(STREAMS, SENDS)
def test_what_is_not_acknowledged_was_dropped_and_counted(schedule: list[Broken], sends: list[int]) -> None:
    peer, statistics, total = asyncio.run(run(schedule, sends, "drop_oldest"))
    assert peer.breaches == []
    acknowledged = set(acknowledged_ids(peer))
    assert statistics.handed_over == total == statistics.acknowledged + statistics.dropped
    assert len(acknowledged) >= statistics.acknowledged
    assert total - len(acknowledged) <= statistics.dropped
    for stream in peer.streams:
        ids = ids_of(stream.batches)
        assert ids == sorted(set(ids))
