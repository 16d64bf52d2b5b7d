"""Retention: old records go, but never one that a stage still needs (design, section 2)."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from sqlalchemy import text

from mesh import positions
from mesh.clock import ManualClock, SystemClock
from mesh.errors import FailedPrecondition
from mesh.ports import Partition
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import ACCEPTED, CONTEXTS, DEAD, SCREENED, SILENCE, TOPICS
from query_svc import wiring
from query_svc.retain import EVERY_S, Retain
from tests.query.deployment import Deployment, FreshDatabase, deployed, end, until
from tests.query.shard_trouble import away

ACCEPTED_0, SCREENED_0 = Partition(ACCEPTED, 0), Partition(SCREENED, 0)
PASSED_BY: Mapping[str, Sequence[str]] = {
    ACCEPTED: ("count", "screen"),
    SCREENED: ("record",),
    DEAD: ("count",),
    SILENCE: (),
}
WEEK_S = 7 * 24 * 3600.0


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


@pytest.fixture
def later() -> ManualClock:
    """A clock eight days from now: whatever the test appends is old enough."""
    return ManualClock(SystemClock().now_us() + 8 * 24 * 3_600_000_000)


def a_trimmer(mesh: Deployment, clock: ManualClock) -> Retain:
    return Retain(mesh.log, mesh.catalog, mesh.shards, PASSED_BY, clock, WEEK_S, Progress("retain"))


async def put(mesh: Deployment, partition: Partition, count: int = 10) -> None:
    for _ in range(count):
        await mesh.append(partition, b"x")


async def kept_from(mesh: Deployment, partition: Partition) -> int:
    return (await mesh.log.ends([partition.topic]))[partition].first


async def move(mesh: Deployment, stage: str, partition: Partition, offset: int) -> None:
    async with transaction(mesh.catalog) as connection:
        known = await positions.read(connection, stage, mesh.log.log_id, [partition.topic])
        expected = {NO_SLOT: known.get((NO_SLOT, partition), NOWHERE)}
        await positions.move(connection, stage, mesh.log.log_id, partition, expected, Position(offset, -1))


async def move_recorder(mesh: Deployment, shard: int, offset: int) -> None:
    async with transaction(mesh.shards.engines[shard]) as connection:
        known = await positions.read(connection, "record", mesh.log.log_id, [SCREENED])
        expected = {slot: known.get((slot, SCREENED_0), NOWHERE) for slot in mesh.shards.slots_of_shard(shard)}
        await positions.move(connection, "record", mesh.log.log_id, SCREENED_0, expected, Position(offset, offset))


async def test_a_record_goes_only_when_every_stage_has_passed_it(mesh: Deployment, later: ManualClock) -> None:
    await put(mesh, ACCEPTED_0)
    retain = a_trimmer(mesh, later)
    await retain.trim()
    assert await kept_from(mesh, ACCEPTED_0) == 0, "nobody has passed anything"
    await move(mesh, "count", ACCEPTED_0, 7)
    await retain.trim()
    assert await kept_from(mesh, ACCEPTED_0) == 0, "the screener has not begun"
    await move(mesh, "screen", ACCEPTED_0, 4)
    assert await retain.trim() == 5
    assert await kept_from(mesh, ACCEPTED_0) == 5
    await move(mesh, "sight", ACCEPTED_0, 5)
    await move(mesh, "screen", ACCEPTED_0, 7)
    assert await retain.trim() == 1, "a stage that was not named, but has a position, holds what it needs"


async def test_the_slowest_slot_of_the_slowest_shard_holds_the_screened_records(mesh: Deployment, later: ManualClock) -> None:
    await put(mesh, SCREENED_0)
    retain = a_trimmer(mesh, later)
    await move_recorder(mesh, 0, 8)
    await retain.trim()
    assert await kept_from(mesh, SCREENED_0) == 0
    await move_recorder(mesh, 1, 5)
    async with transaction(mesh.shards.engines[0]) as connection:
        await connection.execute(text('UPDATE positions SET "offset" = 2 WHERE slot = 3'))
    await retain.trim()
    assert await kept_from(mesh, SCREENED_0) == 3


async def test_while_a_shard_is_away_only_what_the_recorder_reads_is_kept(mesh: Deployment, later: ManualClock) -> None:
    progress = Progress("retain")
    retain = Retain(mesh.log, mesh.catalog, mesh.shards, PASSED_BY, later, WEEK_S, progress)
    await put(mesh, SCREENED_0)
    await put(mesh, ACCEPTED_0)
    for shard in range(2):
        await move_recorder(mesh, shard, 6)
    for stage in ("count", "screen"):
        await move(mesh, stage, ACCEPTED_0, 4)
    async with away(mesh.shards.engines[1].url.render_as_string(hide_password=False)):
        assert await retain.trim() == 5
    assert await kept_from(mesh, SCREENED_0) == 0
    assert progress.problem.startswith("what is recorded is kept longer in the Log: database ")
    assert await retain.trim() == 7
    assert progress.problem == ""


async def test_what_is_younger_than_the_retention_stays(mesh: Deployment) -> None:
    await put(mesh, ACCEPTED_0)
    for stage in ("count", "screen"):
        await move(mesh, stage, ACCEPTED_0, 9)
    clock = ManualClock(SystemClock().now_us() + 6 * 24 * 3_600_000_000)
    assert await a_trimmer(mesh, clock).trim() == 0
    clock.advance(2 * 24 * 3600)
    assert await a_trimmer(mesh, clock).trim() == 9, "the last record is kept"


async def test_contexts_and_topics_that_are_not_named_are_never_trimmed(mesh: Deployment, later: ManualClock) -> None:
    for topic in (CONTEXTS, "restored", SILENCE):
        await put(mesh, Partition(topic, 0))
    await a_trimmer(mesh, later).trim()
    assert [await kept_from(mesh, Partition(topic, 0)) for topic in (CONTEXTS, "restored", SILENCE)] == [0, 0, 9]
    with pytest.raises(ValueError, match="contexts are kept for ever"):
        Retain(mesh.log, mesh.catalog, mesh.shards, {CONTEXTS: ()}, later, WEEK_S, Progress("retain"))


async def test_positions_of_another_log_trim_nothing(mesh: Deployment, later: ManualClock) -> None:
    await put(mesh, ACCEPTED_0)
    async with transaction(mesh.catalog) as connection:
        await positions.move(connection, "count", "another", ACCEPTED_0, {NO_SLOT: NOWHERE}, Position(9, -1))
    with pytest.raises(FailedPrecondition, match="belong to log another"):
        await a_trimmer(mesh, later).trim()
    assert await kept_from(mesh, ACCEPTED_0) == 0


async def test_it_trims_every_ten_minutes(mesh: Deployment, later: ManualClock) -> None:
    await put(mesh, ACCEPTED_0)
    worker = asyncio.create_task(a_trimmer(mesh, later).run())

    async def asleep() -> bool:
        return later.sleeping == 1

    await until(asleep)
    for stage in ("count", "screen"):
        await move(mesh, stage, ACCEPTED_0, 9)
    later.advance(EVERY_S)

    async def trimmed() -> bool:
        return await kept_from(mesh, ACCEPTED_0) == 9

    await until(trimmed)
    await end(worker)


async def test_a_dead_record_is_forgotten_only_when_it_can_not_be_buried_again(mesh: Deployment, later: ManualClock) -> None:
    await put(mesh, ACCEPTED_0)
    for stage in ("count", "screen"):
        await move(mesh, stage, ACCEPTED_0, 4)
    now_us = SystemClock().now_us()
    async with transaction(mesh.catalog) as connection:
        for offset in (4, 5):
            values = f"('screen', 'accepted', 0, {offset}, {now_us})"
            await connection.execute(text(f"INSERT INTO dead_seen VALUES {values}"))
    await a_trimmer(mesh, later).trim()
    assert await mesh.catalog_rows('SELECT "offset" FROM dead_seen') == [(5,)]


async def test_as_wired_every_topic_but_contexts_is_trimmed_and_one_that_nobody_used_holds_up_no_other(
    mesh: Deployment, later: ManualClock
) -> None:
    assert set(wiring.PASSED_BY) == set(TOPICS) - {CONTEXTS}
    retain = Retain(mesh.log, mesh.catalog, mesh.shards, wiring.PASSED_BY, later, WEEK_S, Progress("retain"))
    await put(mesh, ACCEPTED_0)
    await put(mesh, Partition(SILENCE, 0))
    for stage in ("count", "screen"):
        await move(mesh, stage, ACCEPTED_0, 6)
    await move(mesh, "publish", Partition(SILENCE, 0), 4)
    assert await retain.trim() == 7 + 5
    assert await kept_from(mesh, Partition("restored", 0)) == 0


async def test_as_wired_screened_records_stay_until_each_stage_of_theirs_has_passed(mesh: Deployment, later: ManualClock) -> None:
    retain = Retain(mesh.log, mesh.catalog, mesh.shards, wiring.PASSED_BY, later, WEEK_S, Progress("retain"))
    await put(mesh, SCREENED_0)
    for shard in range(2):
        await move_recorder(mesh, shard, 6)
    for stage in ("sight", "archive", "publish"):
        assert await retain.trim() == 0, f"{stage} has not begun"
        await move(mesh, stage, SCREENED_0, 6)
    assert await retain.trim() == 7
