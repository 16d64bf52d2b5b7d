"""The counter: accepted, refused and dead exactly once, and hours that become final (laws 1, 4, 12)."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mesh import ledger, positions
from mesh.clock import ManualClock, SystemClock
from mesh.codec.log_records import ContextChange, Dead, write_context, write_dead
from mesh.codec.stamp import Stamp, write_stamp
from mesh.errors import Fault, PositionLost
from mesh.ports import Clock, Partition
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL, DEAD, REFUSED
from query_svc.count import Count
from query_svc.fences import Fences, last_offsets, read_counted
from query_svc.record import Record as Recorder
from query_svc.recorded import passed
from tests.builders import START_US, some_readings
from tests.query.deployment import HOUR_US, PATIENCE_S, Deployment, FreshDatabase, deployed, end, running, until

TOPICS = (ACCEPTED, BACKFILL, REFUSED, DEAD)


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


def a_counter(mesh: Deployment, progress: Progress | None = None, clock: Clock | None = None) -> Count:
    clock = clock or SystemClock()
    fences = Fences(mesh.log, mesh.catalog, mesh.recorded, clock)
    return Count(mesh.log, mesh.catalog, fences, clock, progress or Progress("count"))


async def all_counted(mesh: Deployment) -> None:
    wanted = last_offsets(await mesh.log.ends(TOPICS))

    async def counted() -> bool:
        return passed(wanted, await read_counted(mesh.catalog, mesh.log.log_id))

    await until(counted)


async def count_all(mesh: Deployment) -> None:
    async with running(a_counter(mesh).run):
        await all_counted(mesh)


def dead(offset: int, count: int, stage: str = "screen", gateway: str = "g1") -> bytes:
    return write_dead(Dead(stage, ACCEPTED, 0, offset, gateway, HOUR_US, count, "broken", b""))


async def test_headers_alone_are_counted_by_gateway_hour_and_reason(mesh: Deployment) -> None:
    for topic, gateway, count in ((ACCEPTED, "a", 5), (ACCEPTED, "b", 7), (BACKFILL, "a", 11)):
        await mesh.append(Partition(topic, 1), b"\xff not read", write_stamp(Stamp(gateway, HOUR_US, count)))
    refused = write_stamp(Stamp("a", HOUR_US, 6, {3: 4, 8: 2}))
    await mesh.append(Partition(REFUSED, 1), b"\xff not read", refused)
    await count_all(mesh)
    rows = await mesh.catalog_rows("SELECT gateway_id, hour_us, measure, count FROM ledger")
    assert sorted(rows) == [
        ("a", HOUR_US, "accepted", 16),
        ("a", HOUR_US, "refused:3", 4),
        ("a", HOUR_US, "refused:8", 2),
        ("b", HOUR_US, "accepted", 7),
    ]


async def test_a_context_has_no_readings_and_counts_nothing(mesh: Deployment) -> None:
    await mesh.append(Partition(ACCEPTED, 0), write_context(ContextChange(1, 1, "rules/1", "00")))
    await count_all(mesh)
    assert await mesh.ledger() == {}
    assert await mesh.catalog_rows("SELECT * FROM hour_fences") == []


async def test_restarts_at_any_moment_count_each_record_once(mesh: Deployment) -> None:
    async def put() -> None:
        for number in range(200):
            await mesh.append(Partition(ACCEPTED, number % 4), b"", write_stamp(Stamp(f"g{number % 3}", HOUR_US, 10)))

    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        for pause in range(8):
            async with running(a_counter(mesh).run) as (task,):
                await asyncio.sleep(0.01 * pause)  # not waited for: any moment will do
                await end(task)
    await count_all(mesh)
    await count_all(mesh)
    assert await mesh.ledger() == {"accepted": 2000}


async def test_a_record_buried_twice_counts_once(mesh: Deployment) -> None:
    for _ in range(2):
        await mesh.append(Partition(DEAD, 0), dead(3, 10))
        await mesh.append(Partition(DEAD, 0), dead(4, 5))
    await count_all(mesh)
    await mesh.append(Partition(DEAD, 0), dead(3, 10))
    await mesh.append(Partition(DEAD, 0), dead(3, 2, stage="record"))
    await count_all(mesh)
    assert await mesh.ledger() == {"dead:screen": 15, "dead:record": 2}


@pytest.mark.parametrize(
    ("partition", "value", "headers"),
    [
        (Partition(ACCEPTED, 2), b"", {"gateway": "g", "hour": "noon", "count": "1"}),
        (Partition(REFUSED, 2), b"", {"gateway": "g", "hour": "0"}),
    ],
)
async def test_what_cannot_be_counted_stops_the_worker_before_it(
    mesh: Deployment, partition: Partition, value: bytes, headers: dict[str, str]
) -> None:
    await mesh.append(partition, value, headers)
    with pytest.raises(Fault, match=f"{partition.topic}/2 offset 0"):
        await asyncio.wait_for(a_counter(mesh).run(), PATIENCE_S)
    assert await mesh.ledger() == {}


async def test_what_is_no_dead_letter_is_nobodys_and_passed_by(mesh: Deployment) -> None:
    await mesh.append(Partition(DEAD, 0), b"\xff garbage")
    await mesh.append(Partition(DEAD, 0), dead(3, 10))
    await count_all(mesh)
    assert await mesh.ledger() == {"dead:screen": 10}


async def test_a_counter_whose_position_was_moved_by_another_counts_nothing_and_ends(mesh: Deployment) -> None:
    progress, partition = Progress("count"), Partition(ACCEPTED, 0)
    worker = asyncio.create_task(a_counter(mesh, progress).run())

    async def began() -> bool:
        return partition in progress.next_offset

    await until(began)
    async with transaction(mesh.catalog) as connection:
        await positions.move(connection, "count", mesh.log.log_id, partition, {NO_SLOT: NOWHERE}, Position(9, -1))
    await mesh.accept(some_readings(3))
    with pytest.raises(PositionLost):
        await asyncio.wait_for(worker, PATIENCE_S)
    assert await mesh.ledger() == {}


async def test_many_writers_of_the_same_ledger_rows_never_wait_in_a_circle(mesh: Deployment) -> None:
    async def write(turn: int) -> None:
        gateways = [f"g{number}" for number in range(60)]
        ordered = gateways if turn % 2 else gateways[::-1]
        for _ in range(10):
            async with transaction(mesh.catalog) as connection:
                await ledger.add(connection, {(gateway, HOUR_US, "accepted"): 1 for gateway in ordered})

    await asyncio.gather(*(write(turn) for turn in range(8)))
    rows = await mesh.catalog_rows("SELECT count(*), min(count), max(count) FROM ledger")
    assert rows == [(60, 80, 80)]


async def test_an_hour_settles_when_it_is_over_for_a_minute_and_every_stage_has_passed_it(
    mesh: Deployment, clock: ManualClock
) -> None:
    assert clock.now_us() == START_US == HOUR_US
    fences = Fences(mesh.log, mesh.catalog, mesh.recorded, clock)

    async def after_step() -> tuple[bool, bool, bool]:
        await fences.step()
        ((*known, settled),) = await mesh.catalog_rows("SELECT ends IS NOT NULL, dead_ends IS NOT NULL, settled FROM hour_fences")
        return known[0], known[1], settled

    await mesh.accept(some_readings(10))
    await count_all(mesh)
    clock.advance(3600 + 59)
    assert await after_step() == (False, False, False), "an hour that is over for less than a minute is open"
    clock.advance(1)
    assert await after_step() == (True, False, False)
    assert await after_step() == (True, False, False), "the recorder has not passed the fence"
    await mesh.put(some_readings(10))
    async with running(Recorder(mesh.log, mesh.shards, Progress("record")).run):
        await mesh.all_recorded()
    await mesh.append(Partition(DEAD, 0), dead(0, 1))
    assert await after_step() == (True, True, False)
    assert await after_step() == (True, True, False), "the dead of that time are not counted yet"
    await count_all(mesh)
    assert await after_step() == (True, True, True)
    await mesh.accept(some_readings(10), hour_us=HOUR_US + 3_600_000_000)
    await mesh.append(Partition(DEAD, 0), dead(1, 1))
    assert await after_step() == (True, True, True), "what comes later does not unsettle it"


async def test_a_running_counter_settles_hours_by_its_clock(mesh: Deployment, clock: ManualClock) -> None:
    async with running(a_counter(mesh, clock=clock).run, Recorder(mesh.log, mesh.shards, Progress("record")).run):
        await mesh.accept(some_readings(10))
        await mesh.put(some_readings(10))
        await mesh.all_recorded()
        await all_counted(mesh)

        async def settled() -> bool:
            clock.advance(600)
            return await mesh.catalog_rows("SELECT settled FROM hour_fences") == [(True,)]

        await until(settled)
