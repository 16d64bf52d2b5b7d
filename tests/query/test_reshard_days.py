"""A slot with a leaf for each day moves with all of them, whatever the job of days does meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.shards import open_engine, transaction
from query_svc.days_leaves import DaySpan, add_day, let_leave, prove_history, read_spans
from query_svc.reshard.copying import driver_of
from query_svc.reshard.slot_tables import SlotTables, attach, make_incoming, read_tables
from tests.conftest import FreshDatabase
from tests.query.resharder import Quiet
from tests.query.resharding_mesh import Moving, moving
from tests.query.test_reshard_laws import sensor_of

DAYS = DaySpan(date(2026, 1, 1), date(2026, 1, 3))
SLOT = 2


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Moving]:
    """Two shards of 3 slots; slot 2 is the first that goes to a third one."""
    async with moving(fresh_database, shards=2, spare=1, slots=6, days=DAYS) as made:
        async with transaction(made.live.now.engines[0]) as connection:
            for day in range(-3, 3):
                at = {"sensor": sensor_of(SLOT), "day": day}
                await connection.execute(text(f"INSERT INTO sensor_readings {_ROW}"), at)
        yield made


async def test_every_leaf_comes_with_its_bounds_and_with_what_lets_it_leave_one_day(mesh: Moving) -> None:
    async with transaction(mesh.live.now.engines[0]) as connection:
        before = await read_tables(connection, SLOT)
        sums = await _sums(connection)
    await mesh.reshard(3)
    target = (await mesh.live.newer()).engines[2]
    async with transaction(target) as connection:
        after = await read_tables(connection, SLOT)
        assert await _sums(connection) == sums
        assert (await read_spans(connection))[SLOT] == DAYS
    assert before is not None
    assert after is not None
    assert [(leaf.name, leaf.bounds) for leaf in after.leaves] == [(leaf.name, leaf.bounds) for leaf in before.leaves]
    assert [[name for name, _ in leaf.checks] for leaf in after.leaves] == [[n for n, _ in leaf.checks] for leaf in before.leaves]
    async with transaction(target) as connection:
        await prove_history(connection, SLOT)
        await let_leave(connection, SLOT, DAYS.first)
    async with transaction(target) as connection:
        assert (await read_spans(connection))[SLOT] == DaySpan(date(2026, 1, 2), date(2026, 1, 3))


@pytest.mark.parametrize("step", ["copied", "followed", "frozen"])
async def test_a_day_that_is_added_meanwhile_is_there_too(mesh: Moving, step: str) -> None:
    async def add(connection: AsyncConnection) -> None:
        await add_day(connection, SLOT, date(2026, 1, 4))
        if step != "frozen":
            await connection.execute(text(f"INSERT INTO sensor_readings {_ROW}"), {"sensor": sensor_of(SLOT), "day": 3})

    await mesh.reshard(3, Meanwhile(mesh, step, add))
    async with transaction((await mesh.live.newer()).engines[2]) as connection:
        assert (await read_spans(connection))[SLOT] == DaySpan(DAYS.first, date(2026, 1, 4))
        assert sum(count for _, count in await _sums(connection)) == (6 if step == "frozen" else 7)


async def test_a_day_that_leaves_meanwhile_makes_the_move_begin_again(mesh: Moving) -> None:
    async def leave(connection: AsyncConnection) -> None:
        await prove_history(connection, SLOT)
        await let_leave(connection, SLOT, DAYS.first)

    watch = Meanwhile(mesh, "followed", leave)
    await mesh.reshard(3, watch)
    steps = [step for what, number, step, phase in watch.steps if (what, number, phase) == ("slot", SLOT, "noted")]
    assert steps.count("copied") == 2
    async with transaction((await mesh.live.newer()).engines[2]) as connection:
        assert sum(count for _, count in await _sums(connection)) == 5


@pytest.mark.parametrize("divided", [False, True])
async def test_what_is_copied_is_attached_without_a_look_at_its_rows(mesh: Moving, divided: bool) -> None:
    source, target = (mesh.live.now.engines[shard] for shard in (0, 1))
    async with transaction(source) as connection:
        like = await read_tables(connection, SLOT)
    assert like is not None
    if not divided:
        like = SlotTables(SLOT, "", ())
    said: list[str | None] = []
    async with transaction(target) as connection:
        await make_incoming(connection, 6, like)
        (await driver_of(connection)).add_notice_handler(lambda notice: said.append(notice.message_primary))
        await connection.execute(text("SET LOCAL client_min_messages = debug1"))
        await attach(connection, 6, like)
    implied = 'partition constraint for table "{}" is implied by existing constraints'
    assert implied.format("sensor_readings_s2") in said


class Meanwhile(Quiet):
    """Does something at the source of the slot, once, when it has come to a step; the resharder waits."""

    def __init__(self, mesh: Moving, step: str, work: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        super().__init__()
        self._url = mesh.url_of(mesh.names[0])
        self._left = [(SLOT, step, "done")]
        self._work = work

    def reached(self, what: str, number: int, step: str, phase: str) -> None:
        super().reached(what, number, step, phase)
        if (number, step, phase) in self._left:
            self._left.clear()
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, self._do()).result()

    async def _do(self) -> None:
        engine = open_engine(self._url, 1)
        async with transaction(engine) as connection:
            await self._work(connection)
        await engine.dispose()


async def _sums(connection: AsyncConnection) -> list[tuple[str, int]]:
    found = "SELECT tableoid::regclass::text, count(*) FROM sensor_readings_s2 GROUP BY 1 ORDER BY 1"
    return [(str(name), int(count)) for name, count in await connection.execute(text(found))]


_ROW = """
(sensor_id, timestamp, ph_level, region, flags)
VALUES (:sensor, timestamptz '2026-01-01 12:00+00' + :day * interval '1 day', 7, 'north', 1)
"""
