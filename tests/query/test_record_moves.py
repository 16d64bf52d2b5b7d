"""The recorder while slots are frozen and moved: they wait in the Log and are written where they are then, the others go on."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from sqlalchemy import text

from mesh.errors import Fault, Unavailable
from mesh.ports import Partition
from mesh.shard_map import hold
from mesh.shards import slot_of, transaction
from mesh.topics import DEAD
from query_svc.record import Record
from tests.builders import a_reading
from tests.query.away_town import SLOTS, Town, a_town
from tests.query.deployment import PATIENCE_S, FreshDatabase, running, until
from tests.query.shard_trouble import Move, away, freeze


@pytest.fixture
async def town(fresh_database: FreshDatabase) -> AsyncIterator[Town]:
    async with a_town(await fresh_database(), [await fresh_database(), await fresh_database()]) as found:
        yield found


async def test_a_frozen_slot_waits_and_the_others_go_on(town: Town) -> None:
    sensor = town.sensors(1)[0]
    slot = int(slot_of(np.array([sensor]), SLOTS)[0])
    engine = town.mesh.shards.engines[1]
    others = [one for one in town.sensors(1) if slot_of(np.array([one]), SLOTS)[0] != slot]
    async with running(town.recorder().run):
        await town.put()
        await town.mesh.all_recorded()
        await freeze(engine, slot)
        before = await _rows_of(town, [sensor])
        for count in range(2, 6):
            await town.put()
            await town.reads(0)

            async def others_are_stored(count: int = count) -> bool:
                return await _rows_of(town, others) == count * len(others)

            await until(others_are_stored)
        assert await _rows_of(town, [sensor]) == before
        assert town.progress.problem == f"readings of slot {slot} wait in the Log: moved, or caught up"
        await freeze(engine, slot, writable=True)
        await town.check(5)


async def test_a_slot_that_is_moved_is_written_where_it_is_then(town: Town) -> None:
    """At each step of the move readings arrive; nothing of them is lost, doubled, or written where the slot is not."""
    slot = int(slot_of(np.array([town.sensors(0)[0]]), SLOTS)[0])
    async with running(town.recorder().run):
        await town.put(3)
        await town.mesh.all_recorded()
        move = Move(town.mesh.catalog, town.live, slot, 1)
        await freeze(town.live.now.engines[0], slot)
        for step in (move.copy, move.hand_over, move.publish, move.forget):
            await town.put()
            await step()
        await town.put()
        await town.check(8)
        back = Move(town.mesh.catalog, town.live, slot, 0)
        await town.put()
        await back.run()
        await town.put()
        await town.check(10)
    assert town.live.now.version == 3


async def test_a_slot_moves_while_the_shard_of_the_others_is_away(town: Town) -> None:
    slot = int(slot_of(np.array([town.sensors(1)[0]]), SLOTS)[0])
    async with running(town.recorder().run):
        await town.put()
        await town.mesh.all_recorded()
        await Move(town.mesh.catalog, town.live, slot, 0).run()
        await town.put()
        await town.mesh.all_recorded()
        async with away(town.urls[1]):
            await town.put(5)
            await town.reads(0)
        await town.check(7)


async def test_what_is_held_cannot_be_moved_away_before_the_transaction_ends(town: Town) -> None:
    engine = town.mesh.shards.engines[0]
    await freeze(engine, 2)
    async with transaction(engine) as connection:
        assert await hold(connection, [0, 1, 2, 7], 5.0) == {0, 1}
        async with transaction(engine) as mover:
            await mover.execute(text("SET LOCAL lock_timeout = 100"))
            with pytest.raises(Exception, match="lock timeout"):
                await mover.execute(text("LOCK TABLE owned_slots IN EXCLUSIVE MODE"))
    await freeze(engine, 1)


async def test_who_holds_slots_and_does_nothing_loses_its_transaction(town: Town) -> None:
    """A recorder that was stopped in the middle of a flush keeps nobody from taking over its partitions, or from moving slots."""
    engine = town.mesh.shards.engines[0]
    with pytest.raises(Unavailable, match="is away"):  # noqa: PT012 - a later statement is the one that fails
        async with transaction(engine) as connection:
            await hold(connection, [0], 0.2)
            await freeze(engine, 0)
            await connection.execute(text("SELECT 1"))


async def test_an_unreadable_record_is_buried_once_though_it_is_read_again_for_a_shard_that_was_away(town: Town) -> None:
    async with running(town.recorder().run):
        await town.put()
        await town.mesh.all_recorded()
        async with away(town.urls[1]):
            await town.mesh.put(a_reading(1), value=b"\xff garbage")
            await town.put()
            await town.reads(0)
        await town.check(2)
    assert len(await town.mesh.log.read(Partition(DEAD, 0), 0, 10)) == 1


async def test_a_row_of_unreadable_records_stops_the_worker_before_all_of_them_are_dead(town: Town) -> None:
    async def put_garbage(count: int) -> None:
        for _ in range(count):
            await town.mesh.put(a_reading(1), value=b"\xff garbage")

    for _ in range(5):
        await put_garbage(2)
        await town.put()
    recorder = Record(town.mesh.log, town.live, town.progress, most_dead_in_a_row=2)
    async with running(recorder.run):
        await town.check(5)
    await put_garbage(50)
    await town.put()
    for _ in range(3):
        with pytest.raises(Fault, match="screened/0 up to offset 17: more than 2 records in a row cannot be recorded"):
            await asyncio.wait_for(recorder.run(), PATIENCE_S)
    assert len(await town.mesh.log.read(Partition(DEAD, 0), 0, 100)) == 10, (
        "none of the row was buried, however often it was tried"
    )
    async with running(Record(town.mesh.log, town.live, town.progress, most_dead_in_a_row=50).run):
        await town.check(6)
    assert len(await town.mesh.log.read(Partition(DEAD, 0), 0, 100)) == 60


async def _rows_of(town: Town, sensors: list[int]) -> int:
    async with transaction(town.mesh.shards.engines[1]) as connection:
        query = text("SELECT count(*) FROM sensor_readings WHERE sensor_id = ANY(:sensors)")
        return int((await connection.execute(query, {"sensors": sensors})).scalar_one())
