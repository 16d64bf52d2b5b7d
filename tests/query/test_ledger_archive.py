"""The archive's law in the ledger: accepted = archived + dead at screen + dead at archive, per gateway and hour (law 1)."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from mesh import ledger, positions
from mesh.clock import ManualClock, SystemClock
from mesh.ports import Partition
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.topics import SCREENED, SCREENED_BACKFILL
from query_svc.count import Count
from query_svc.fences import Fences
from query_svc.ledger_answer import LedgerAnswer, Question
from query_svc.record import Record
from tests.builders import START_US, some_readings
from tests.query.deployment import HOUR_US, SCREENED_0, Deployment, FreshDatabase, deployed, record_all, running

KEY = ("g1", HOUR_US)


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


def an_answer(mesh: Deployment, archived: bool = True) -> LedgerAnswer:
    return LedgerAnswer(mesh.log, mesh.catalog, mesh.shards, mesh.recorded, SystemClock(), archived=archived)


async def archive(mesh: Deployment, had: Position, new: Position, count: int, partition: Partition = SCREENED_0) -> None:
    """What the archive leaves behind in the transaction that enters a chunk's objects."""
    async with transaction(mesh.catalog) as connection:
        await positions.move(connection, "archive", mesh.log.log_id, partition, {NO_SLOT: had}, new)
        await ledger.add(connection, {(*KEY, ledger.ARCHIVED): count})


async def account(mesh: Deployment, counts: Mapping[tuple[str, int, str], int]) -> None:
    async with transaction(mesh.catalog) as connection:
        await ledger.add(connection, counts)


async def test_caught_up_waits_for_the_archive_too_where_there_is_one(mesh: Deployment) -> None:
    await mesh.accept(some_readings(3))
    await mesh.put(some_readings(3))
    fences = Fences(mesh.log, mesh.catalog, mesh.recorded, SystemClock())
    count = Count(mesh.log, mesh.catalog, fences, SystemClock(), Progress("count"))
    answer = an_answer(mesh)
    async with running(Record(mesh.log, mesh.shards, Progress("record")).run, count.run):
        assert await an_answer(mesh, archived=False).caught_up({}, 30.0)
        assert not await answer.caught_up({}, 0.2)
        waiting = asyncio.create_task(answer.caught_up({}, 30.0))
        await archive(mesh, NOWHERE, Position(0, 0), 3)
        assert await waiting
    page, caught_up = await answer.answer(Question(), {}, 5.0)
    assert (caught_up, page.balanced) == (True, True)
    assert page.entries[0].counts == {"accepted": 3, "stored": 3, "archived": 3}


async def test_a_position_in_the_screened_topics_covers_the_accepted_records_behind_it(mesh: Deployment) -> None:
    answer = an_answer(mesh)
    assert answer._archived is not None
    assert await answer._archived.offsets() == {}
    await archive(mesh, NOWHERE, Position(5, 7), 1)
    await archive(mesh, NOWHERE, Position(2, 2), 1, Partition(SCREENED_BACKFILL, 3))
    await archive(mesh, Position(5, 7), Position(6, 8), 1)
    assert await answer._archived.offsets() == {Partition("accepted", 0): 8, Partition("backfill", 3): 2}


@pytest.mark.parametrize(
    ("change", "balanced"),
    [
        ({"archived": 10}, True),
        ({"archived": 7, "dead:archive": 3}, True),
        ({"archived": 9}, False),
        ({"archived": 11}, False),
        ({}, False),
        ({"dead:archive": 10}, True),
    ],
)
async def test_both_laws_must_hold(mesh: Deployment, change: Mapping[str, int], balanced: bool) -> None:
    await account(mesh, {(*KEY, "accepted"): 12, (*KEY, "stored"): 6, (*KEY, "duplicate"): 4, (*KEY, "dead:screen"): 2})
    await account(mesh, {(*KEY, measure): count for measure, count in change.items()})
    assert (await an_answer(mesh).page(Question())).balanced is balanced
    assert (await an_answer(mesh, archived=False).page(Question())).balanced


async def test_one_law_never_makes_up_for_the_other(mesh: Deployment) -> None:
    """Two readings too few in the shards and two too many in the archive are four faults, not none."""
    await account(mesh, {(*KEY, "accepted"): 10, (*KEY, "stored"): 8, (*KEY, "archived"): 12})
    assert not (await an_answer(mesh).page(Question())).balanced
    await account(mesh, {(*KEY, "stored"): 2})
    assert not (await an_answer(mesh).page(Question())).balanced


async def test_an_hour_is_not_settled_before_the_archive_has_passed_it(mesh: Deployment, clock: ManualClock) -> None:
    fences = Fences(mesh.log, mesh.catalog, mesh.recorded, clock, archived=True)
    await mesh.accept(some_readings(10))
    await mesh.put(some_readings(10))
    assert clock.now_us() == START_US
    async with transaction(mesh.catalog) as connection:
        await connection.exec_driver_sql(f"INSERT INTO hour_fences (hour_us) VALUES ({HOUR_US})")
    await record_all(mesh)
    clock.advance(3700)

    async def bounded() -> bool:
        await fences.step()
        ((known,),) = await mesh.catalog_rows("SELECT dead_ends IS NOT NULL FROM hour_fences")
        return bool(known)

    assert not await bounded()
    assert not await bounded()
    await archive(mesh, NOWHERE, Position(0, 0), 10)
    assert await bounded()


async def test_the_archive_of_another_lane_covers_nothing_here(mesh: Deployment) -> None:
    await mesh.accept(some_readings(1))
    await archive(mesh, NOWHERE, Position(0, 0), 1, Partition(SCREENED, 1))
    assert not await an_answer(mesh).caught_up({}, 0.1)
