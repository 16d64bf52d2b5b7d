"""The client against the real server: what it counts is what stands in the Log."""

import numpy as np
import pytest

from ingest_svc.wiring import wire_accept
from mesh.adapters.postgres_log import PostgresLog
from mesh.clock import SystemClock
from mesh.codec.log_records import read_accepted
from mesh.codec.stamp import read_stamp
from mesh.errors import Conflict, InvalidArgument
from mesh.gateway import Gateway, GatewaySettings
from mesh.ports import Partition
from mesh.settings import Settings
from mesh.tokens import read_position
from mesh.topics import ACCEPTED, BACKFILL, REFUSED, partition_of
from tests.builders import some_readings
from tests.gateway.quick import hand_over, numbered, quick, until
from tests.ingest.peer import serving
from tests.proxy import BreakableProxy
from water.readings import Readings

SETTINGS = Settings(max_batch_readings=200, window_batches=4)


async def ids_in(log: PostgresLog, topic: str) -> list[int]:
    partition = Partition(topic, partition_of("north", "g-1", log.partition_count))
    found = await log.read(partition, 0, 10_000)
    return [int(sensor) for stored in found for sensor in columns_of(stored.record.value).sensor_id]


def columns_of(value: bytes) -> Readings:
    accepted = read_accepted(value)
    readings = getattr(accepted, "readings", None)
    assert isinstance(readings, Readings)
    return readings


async def test_without_a_reconnect_what_was_sent_is_accepted_plus_refused(postgres_log: PostgresLog) -> None:
    good, bad = some_readings(3000), some_readings(100, seed=1)
    bad = Readings(-bad.sensor_id, bad.measured_at_us, bad.values)
    async with serving(wire_accept(SETTINGS, postgres_log, SystemClock())) as target:
        gateway = Gateway(quick(target, max_batch_readings=1000))
        async with gateway:
            await gateway.send(good)
            await gateway.send(bad)
            await gateway.send_backlog(numbered(1, 500))
    statistics = gateway.statistics
    assert statistics.reconnects == 0
    assert statistics.transmitted == statistics.acknowledged == 3600
    assert statistics.refused == {2: 100}
    assert len(await ids_in(postgres_log, ACCEPTED)) == statistics.live.accepted == 3000
    assert await ids_in(postgres_log, BACKFILL) == list(range(1, 501))
    partition = partition_of("north", "g-1", postgres_log.partition_count)
    refused = await postgres_log.read(Partition(REFUSED, partition), 0, 1000)
    assert sum(read_stamp(stored.record.headers).count for stored in refused) == 100
    ends = await postgres_log.ends([ACCEPTED, BACKFILL])
    for topic, token in zip((ACCEPTED, BACKFILL), statistics.positions, strict=True):
        at = read_position(token, postgres_log.log_id, "at_least")
        assert at == {(topic, partition): ends[Partition(topic, partition)].next - 1}


async def test_with_a_broken_network_nothing_is_lost_and_the_order_of_first_arrivals_is_kept(postgres_log: PostgresLog) -> None:
    async with (
        serving(wire_accept(SETTINGS, postgres_log, SystemClock())) as target,
        BreakableProxy(int(target.rpartition(":")[2])) as proxy,
    ):
        gateway = Gateway(quick(proxy.target, max_batch_readings=50))
        async with gateway:
            for first in range(1, 5001, 500):
                proxy.cut_after(3_000)
                await gateway.send(numbered(first, 500))
                await until(lambda: gateway.statistics.buffered <= 500, "earlier readings got through")
    found = await ids_in(postgres_log, ACCEPTED)
    firsts = [found[index] for index in np.sort(np.unique(found, return_index=True)[1])]
    assert firsts == list(range(1, 5001))
    assert gateway.statistics.reconnects > 3
    assert gateway.statistics.handed_over <= len(found) <= gateway.statistics.transmitted


async def test_two_gateways_of_one_id_do_not_fight(postgres_log: PostgresLog) -> None:
    async with serving(wire_accept(SETTINGS, postgres_log, SystemClock())) as target:
        first = Gateway(quick(target))
        async with Gateway(quick(target)) as second:
            async with first:
                await first.send(numbered(1, 10))
                await first.flush(10)
                await second.send(numbered(11, 10))
                await second.flush(10)
                await until(lambda: "NEWER_STREAM" in first.statistics.last_error, "the older one was told")
                with pytest.raises(Conflict):
                    await first.send(numbered(21, 10))
            await second.send(numbered(31, 10))
            await second.flush(10)
        assert second.statistics.reconnects == 0


async def test_a_region_that_cannot_be_stops_with_the_servers_words(postgres_log: PostgresLog) -> None:
    async with serving(wire_accept(SETTINGS, postgres_log, SystemClock())) as target:
        with pytest.raises(InvalidArgument, match=r"open\.region"):
            await hand_over(Gateway(GatewaySettings(target, "g-1", "../../etc")), numbered(1, 10))


async def test_a_draining_server_ends_without_a_fault_and_its_successor_gets_the_rest(postgres_log: PostgresLog) -> None:
    accepting = wire_accept(SETTINGS, postgres_log, SystemClock())
    async with serving(accepting) as old, serving(wire_accept(SETTINGS, postgres_log, SystemClock())) as new:
        ports = [int(target.rpartition(":")[2]) for target in (old, new)]
        async with BreakableProxy(ports[0]) as proxy:
            async with Gateway(quick(proxy.target)) as gateway:
                await gateway.send(numbered(1, 100))
                await gateway.flush(10)
                proxy.lead_to(ports[1])
                await accepting.streams.drain(5.0, SystemClock())
                await gateway.send(numbered(101, 100))
                await gateway.flush(10)
            assert gateway.statistics.last_error == ""
            assert await ids_in(postgres_log, ACCEPTED) == list(range(1, 201))
