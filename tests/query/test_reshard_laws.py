"""What a resharding refuses, puts back, and copies whatever transactions do meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from sqlalchemy import text

from mesh.adapters.directory import DirectoryObjects
from mesh.clock import SystemClock
from mesh.codec.conflicts import conflicts_folder
from mesh.codec.conflicts_told import is_told, read_told
from mesh.errors import Conflict, FailedPrecondition, InvalidArgument, SetupError, Unavailable
from mesh.shards import open_engine, slot_of, transaction
from mesh.stages import Progress
from query_svc.losers_export import LosersExport
from query_svc.reshard.journal import open_journal
from query_svc.reshard.steps import NAMES
from query_svc.tables import create_shard_tables
from tests.conftest import FreshDatabase
from tests.query.resharder import Quiet, reshard_elsewhere
from tests.query.resharding_mesh import Load, Moving, moving, under_load

INSERT = "INSERT INTO sensor_readings (sensor_id, timestamp, ph_level, region, flags) VALUES (:sensor, now(), 7, 'north', 1)"


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Moving]:
    async with moving(fresh_database, shards=2, spare=1, slots=6) as made:
        yield made


class At(Quiet):
    """Holds up at one step of a slot until it is let go on; `error`: ends there instead."""

    def __init__(self, step: str, phase: str, error: Exception | None = None) -> None:
        super().__init__()
        self._at = step, phase
        self._error = error

    def reached(self, what: str, number: int, step: str, phase: str) -> None:
        super().reached(what, number, step, phase)
        if (step, phase) == self._at:
            self.happens(number)
            if self._error:
                raise self._error

    def happens(self, slot: int) -> None:
        """What else is done at that moment."""


def sensor_of(slot: int, slots: int = 6) -> int:
    """A sensor of this slot."""
    sensors = np.arange(1, 1000)
    return int(sensors[slot_of(sensors, slots) == slot][0])


async def first_slot(mesh: Moving) -> int:
    """The slot that goes first, found by a run that ends before it does anything."""
    watch = At("prepared", "begins", Unavailable("enough"))
    with pytest.raises(Unavailable, match="enough"):
        await mesh.reshard(3, watch)
    return next(number for what, number, step, _ in watch.steps if what == "slot" and step == "prepared")


async def insert(mesh: Moving, slot: int, count: int) -> None:
    shards = await mesh.live.newer()
    async with transaction(shards.engines[int(shards.owner[slot])]) as connection:
        for number in range(count):
            statement = INSERT.replace("now()", f"now() + {number} * interval '1 second'")
            await connection.execute(text(statement), {"sensor": sensor_of(slot)})


async def rows_of(mesh: Moving, slot: int) -> int:
    shards = await mesh.live.newer()
    async with transaction(shards.engines[int(shards.owner[slot])]) as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM sensor_readings_s{slot}"))).scalar_one())


async def test_rows_of_savepoints_and_of_long_transactions_are_not_missed(mesh: Moving) -> None:
    slot = await first_slot(mesh)
    await insert(mesh, slot, 5)
    shards = await mesh.live.newer()
    source = shards.engines[int(shards.owner[slot])]
    sensor = {"sensor": sensor_of(slot)}
    copied, committed = asyncio.Event(), asyncio.Event()

    async def write_slowly() -> None:
        """Begins before the copy; each row in a savepoint, half before the snapshot and half after it; ends before the freeze."""
        async with transaction(source) as connection:
            await connection.execute(text("SELECT 1 FROM owned_slots WHERE slot = :slot FOR SHARE"), {"slot": slot})
            for number in range(100):
                async with connection.begin_nested():
                    statement = INSERT.replace("now()", f"now() - {number + 1} * interval '1 minute'")
                    await connection.execute(text(statement), sensor)
                if number == 50:
                    begun.set()
                    await copied.wait()
        committed.set()

    begun = asyncio.Event()

    class Going(At):
        def happens(self, slot: int) -> None:
            copied.set()

    writing = asyncio.create_task(write_slowly())
    await begun.wait()
    watch = Going("copied", "done")
    await mesh.reshard(3, watch)
    await writing
    assert await rows_of(mesh, slot) == 105


async def test_a_row_that_was_changed_at_the_target_behind_its_back_stops_the_move_and_the_source_keeps_it(mesh: Moving) -> None:
    slot = await first_slot(mesh)
    await insert(mesh, slot, 20)
    now = await mesh.live.newer()
    target = now.engines[2]

    async def spoil() -> None:
        async with transaction(target) as connection:
            changed = (
                f"UPDATE incoming.sensor_readings_s{slot} SET ph_level = 7.5 WHERE timestamp = (SELECT min(timestamp) FROM x)"
            )
            await connection.execute(text(f"WITH x AS (SELECT timestamp FROM incoming.sensor_readings_s{slot}) {changed}"))

    spoilt: list[asyncio.Task[None]] = []

    class Spoiling(At):
        def happens(self, slot: int) -> None:
            spoilt.append(asyncio.get_running_loop().create_task(spoil()))

    with pytest.raises(Conflict, match=f"slot {slot} differs: shard . has 20 rows") as caught:
        await mesh.reshard(3, Spoiling("followed", "done"))
    await asyncio.gather(*spoilt)
    assert caught.value.reason == "SLOT_DIFFERS"
    owned = await mesh.shard_rows("SELECT slot, writable FROM owned_slots ORDER BY 1")
    assert (slot, True) in owned[int(now.owner[slot])]
    assert owned[2] == []
    await mesh.reshard(3)
    assert await rows_of(mesh, slot) == 20


async def test_two_at_once_are_refused(mesh: Moving) -> None:
    async with open_journal(mesh.catalog):
        with pytest.raises(Conflict, match="another wq reshard is running"):
            await mesh.reshard(3)
    await mesh.reshard(3)


async def test_another_number_is_refused_while_one_is_open_and_nothing_to_abort_is_said(mesh: Moving) -> None:
    with pytest.raises(FailedPrecondition, match="no resharding is open"):
        await mesh.abort()
    await first_slot(mesh)
    with pytest.raises(FailedPrecondition, match=r"to 3 shards is open, 0 of 2 .* --to 3.*--abort"):
        await mesh.reshard(2)


@pytest.mark.parametrize("step", [name for name in NAMES if name != "dropped"])
async def test_an_abort_puts_back_what_has_not_gone_over_and_takes_on_what_has(mesh: Moving, step: str) -> None:
    slot = await first_slot(mesh)
    await insert(mesh, slot, 7)
    before = (await mesh.live.newer()).owner.tolist()
    assert await reshard_elsewhere(mesh.order(3, kill_at=(step, "noted"))) is None
    await mesh.abort()
    over = NAMES.index(step) >= NAMES.index("mapped")
    after = await mesh.live.newer()
    assert sum(a != b for a, b in zip(before, after.owner.tolist(), strict=True)) == over
    assert set(after.engines) == ({0, 1, 2} if over else {0, 1})
    assert await rows_of(mesh, slot) == 7
    owned = await mesh.shard_rows("SELECT slot FROM owned_slots WHERE writable ORDER BY 1")
    assert {shard: [slot for (slot,) in rows] for shard, rows in owned.items()} == {
        shard: after.slots_of_shard(shard) for shard in after.engines
    }


async def test_a_slot_is_written_again_when_a_move_ends_with_an_error(mesh: Moving) -> None:
    slot = await first_slot(mesh)
    for step in ("frozen", "completed", "verified", "attached"):
        with pytest.raises(Unavailable, match="ended here"):
            await mesh.reshard(3, At(step, "done", Unavailable("ended here")))
        owned = await mesh.shard_rows(f"SELECT writable FROM owned_slots WHERE slot = {slot}")
        assert [rows for rows in owned.values() if rows] == [[(True,)]], step
    await mesh.reshard(3)


async def test_a_run_that_is_cancelled_while_it_copies_leaves_everything_in_order(mesh: Moving) -> None:
    slot = await first_slot(mesh)
    await insert(mesh, slot, 1000)
    watch = At("copied", "begins")
    running = asyncio.create_task(mesh.reshard(3, watch, mb_per_s=0.001))
    while watch.copied_bytes == 0:  # noqa: ASYNC110 - it is in a copy that is slow by order
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await mesh.reshard(3)
    assert await rows_of(mesh, slot) == 1000


async def test_a_database_with_slots_of_another_deployment_and_too_few_addresses_are_refused(mesh: Moving) -> None:
    engine = open_engine(mesh.url_of(mesh.names[2]), 1)
    await create_shard_tables(engine, 6, [4])
    with pytest.raises(SetupError, match=f"shard {mesh.names[2]} has slots 4, as a shard in use has"):
        await mesh.reshard(3)
    await engine.dispose()
    with pytest.raises(SetupError, match="4 shards are 2 more than there are, and 1 addresses"):
        await mesh.reshard(4)
    with pytest.raises(InvalidArgument, match="0 shards for 6 slots"):
        await mesh.reshard(-2)
    assert len((await mesh.live.newer()).engines) == 2


async def test_the_losers_of_a_shard_that_leaves_are_kept_and_its_export_is_waited_for(
    mesh: Moving, objects: DirectoryObjects
) -> None:
    load = Load(mesh, sensors=50, batch=200)
    async with under_load(mesh, load, objects, readers=0):
        await mesh.reshard(3)
        await load.put()
    losers = 'SELECT sensor_id, topic, partition, "offset", index FROM conflicting_readings'
    before = {row for rows in (await mesh.shard_rows(losers)).values() for row in rows}
    async with transaction((await mesh.live.newer()).engines[2]) as connection:
        await connection.execute(text("UPDATE conflicts_exported SET written_by = '0', id = 0"))
    assert (await mesh.shard_rows(losers))[2]
    with pytest.raises(Unavailable, match="conflicting readings are not exported; let `wq serve query`"):
        await mesh.reshard(2, patience_s=0)
    async with under_load(mesh, load, objects, readers=0):
        report = await mesh.reshard(2)
    assert report.retired == (mesh.names[2],)
    assert before <= {row for rows in (await mesh.shard_rows(losers)).values() for row in rows}
    export = LosersExport(mesh.live, objects, mesh.deployment.log.log_id, SystemClock(), Progress("losers_export"))
    for _ in range(3):
        await export.export()
    paths = [path async for path in objects.list(conflicts_folder(mesh.deployment.log.log_id)) if is_told(path)]
    words = [read_told(path, await objects.get(path)) for path in paths]
    assert {(word.shard, word.shard_count) for word in words} == {(0, 2), (1, 2)}, "a shard that left holds nobody back"
    await load.must_be_whole()
