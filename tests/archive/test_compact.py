"""Days that are over become one object per region: sorted, each reading once, what the shards have; nothing is lost meanwhile."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from archive_svc.manifest import Wanted
from mesh.clock import ManualClock
from mesh.errors import PositionLost, Unavailable
from mesh.ports import Partition
from mesh.stages import Progress
from mesh.topics import SCREENED
from tests.archive.compacting import FOREVER_S, Compacting, is_sorted
from tests.archive.restoring import DAY_US, Station, random_flags
from tests.builders import START_US, some_readings


@pytest.fixture
def compacting(first: Station) -> Compacting:
    """Of a deployment with duplicates and conflicts of every kind, whose losers are told."""
    return Compacting(first)


async def test_a_day_that_is_over_becomes_one_object_with_what_the_shards_have(first: Station, compacting: Compacting) -> None:
    parts = await compacting.rows()
    assert await compacting.worker().once() > 0
    days = await compacting.days()
    only_losers = {"water_quality_data/west/2026/01/01"}
    assert set(days) == {row.path.rpartition("/")[0] for row in parts} - only_losers
    assert len(await compacting.rows()) == len(days) < len(parts)
    found = []
    for day in days.values():
        assert is_sorted(day)
        assert day.readings.flags is not None
        values = day.readings.values.T.tolist()
        keys = zip(day.readings.sensor_id.tolist(), day.readings.measured_at_us.tolist(), strict=True)
        for key, value, flags in zip(keys, values, day.readings.flags.astype("int64").tolist(), strict=True):
            kept = tuple(None if one != one else one for one in value)
            found.append((key[0], key[1], *kept, flags, day.region))
    assert sorted(found, key=str) == sorted(map(as_stored, await first.table()), key=str)
    assert await compacting.is_sound()


def as_stored(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of the table with the float32 that it has, which SQL shows with fewer digits."""
    sensor_id, time, *values, flags, region = row
    numbers = [None if value is None else float(np.float32(value)) for value in values]
    return (sensor_id, round(time.timestamp() * 1e6), *numbers, flags, region)


async def test_what_is_kept_and_what_is_left_out_are_what_was_there(compacting: Compacting) -> None:
    parts = await compacting.rows()
    archived = await compacting.count("SELECT sum(count) FROM ledger WHERE measure = 'archived'")
    await compacting.worker().once()
    notes = await compacting.notes()
    assert sum(note.part_count for note in notes) == sum(row.reading_count for row in parts) == archived
    assert sum(note.reading_count for note in notes) == sum(row.reading_count for row in await compacting.rows())
    assert sum(note.duplicate_count for note in notes) > 0
    assert sum(note.loser_count for note in notes) > 0
    assert {note.undecided_count for note in notes} == {0}
    assert await compacting.count("SELECT sum(count) FROM ledger WHERE measure = 'archived'") == archived


@pytest.mark.parametrize("swept", [False, True])
async def test_an_archive_of_compacted_days_is_restored_to_the_same_table(
    first: Station, second: Station, compacting: Compacting, swept: bool
) -> None:
    await compacting.worker(grace_s=-1.0 if swept else FOREVER_S).once()
    if swept:
        assert await compacting.nothing_is_left_over()
    found = await second.restore_all("old")
    assert found[-1].unproven_count == 0
    assert found[-1].restored_count == len(await first.table())
    assert await second.table() == await first.table()
    assert await Compacting(second).is_sound()
    await second.restore_all("old", Wanted(("south",), START_US, START_US + DAY_US // 2))
    assert await second.table() == await first.table()


async def test_what_was_replaced_stays_for_a_while_and_is_then_gone(compacting: Compacting) -> None:
    parts = await compacting.rows()
    await compacting.worker().once()
    assert {path async for path in compacting.station.objects.list("")} > {row.path for row in parts}
    assert await compacting.is_sound()
    await compacting.worker(grace_s=-1.0).once()
    assert await compacting.nothing_is_left_over()
    assert await compacting.is_sound()
    assert await compacting.count("SELECT count(*) FROM archive.replaced") == 0


async def test_a_chunk_that_comes_late_makes_its_day_ready_once_more(
    first: Station, second: Station, compacting: Compacting
) -> None:
    await compacting.worker(grace_s=-1.0).once()
    before = {row.path for row in await compacting.rows()}
    late = random_flags(some_readings(100, sensors=[1, 2, 3], seed=0, start=START_US + DAY_US // 3 + 7, absent=0.3), 5)
    await first.mesh.put(late, Partition(SCREENED, 0), "g0", "north")
    await first.mesh.put(late, Partition(SCREENED, 3), "g3", "north")
    await first.record_and_archive()
    assert len(await compacting.rows()) == len(before) + 2
    assert await compacting.worker(grace_s=-1.0).once() == 1
    after = {row.path for row in await compacting.rows()}
    assert (len(after), len(after - before)) == (len(before), 1)
    assert all(is_sorted(day) for day in (await compacting.days()).values())
    assert await compacting.nothing_is_left_over()
    await second.restore_all("old")
    assert await second.table() == await first.table()


async def test_a_day_waits_until_it_is_told_which_of_its_readings_lost(first: Station, compacting: Compacting) -> None:
    await first.mesh.put(random_flags(some_readings(50, start=START_US + DAY_US), 1), Partition(SCREENED, 0), "g0", "north")
    await first.archive()
    rows = await compacting.rows()
    late = [row for row in rows if row.stored_us == max(row.stored_us for row in rows)]
    await compacting.worker().once()
    left = [row for row in await compacting.rows() if row.topic == SCREENED]
    assert {row.path for row in late} <= {row.path for row in left}
    await first.record_and_archive()
    await compacting.worker().once()
    assert len(await compacting.days()) == len(await compacting.rows())


@pytest.mark.parametrize(
    ("now_us", "settings"),
    [
        (START_US - 2 * DAY_US, {}),
        (START_US + 3 * DAY_US + 3_599_999_999, {"is_some": True}),
        (START_US + 9 * DAY_US, {"quiet_s": FOREVER_S}),
        (START_US + 9 * DAY_US, {"after_h": 0.0}),
    ],
)
async def test_only_days_that_are_over_and_quiet_are_put_together(
    compacting: Compacting, now_us: int, settings: dict[str, Any]
) -> None:
    is_some = "is_some" in settings
    # chunks are cut by the machine's clock
    quiet = {"quiet_s": -FOREVER_S} | {name: value for name, value in settings.items() if name != "is_some"}
    await compacting.worker(clock=ManualClock(now_us), **quiet).once()
    open_days = [row for row in await compacting.rows() if row.topic == SCREENED]
    done = [row for row in await compacting.rows() if row.topic == "compacted"]
    assert bool(done) == bool(is_some)
    assert all(row.first_us >= START_US + 2 * DAY_US for row in open_days if is_some)
    assert open_days


async def test_of_two_workers_one_works_and_who_lost_its_attempt_is_told(first: Station, compacting: Compacting) -> None:
    waiting, go_on = asyncio.Event(), asyncio.Event()

    class Halting(type(first.objects)):  # type: ignore[misc]
        """Stands still before its first put of an object."""

        async def put(self, path: str, content: bytes) -> bool:
            if path.startswith("water_quality_data/"):
                waiting.set()
                await go_on.wait()
            return bool(await super().put(path, content))

    zombie = asyncio.create_task(compacting.worker(Halting(first.folder)).once())
    await asyncio.wait_for(waiting.wait(), 30)
    assert await compacting.worker().once() == 0, "somebody is at it"
    # The zombie's connection breaks: another one takes over.
    await compacting.count(
        "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks AS l WHERE locktype = 'advisory' AND granted AND"
        " CAST(classid AS bigint) << 32 | CAST(objid AS bigint) = hashtext('archive.compact')"
    )
    assert await compacting.worker().once() > 0
    go_on.set()
    with pytest.raises(Unavailable) as error:  # of its lock, in the end
        await zombie
    assert any(isinstance(one, PositionLost) for one in behind(error.value))
    await compacting.worker(grace_s=-1.0).once()
    assert await compacting.nothing_is_left_over()
    assert await compacting.is_sound()


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those during which it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


async def test_a_damaged_object_keeps_its_day_as_it_is_and_no_other(first: Station, compacting: Compacting) -> None:
    row = (await compacting.rows())[0]
    content = bytearray(await first.objects.get(row.path))
    content[len(content) // 2] ^= 1
    await first.objects.delete(row.path)
    await first.objects.put(row.path, bytes(content))
    progress = Progress("compact")
    assert await compacting.worker(progress=progress).once() > 0
    assert row.path in progress.problem
    chunks = [one for one in await compacting.rows() if one.topic != "compacted"]
    assert {one.path.rpartition("/")[0] for one in chunks} == {row.path.rpartition("/")[0]}


async def test_nothing_is_deleted_when_what_stands_for_it_is_damaged(first: Station, compacting: Compacting) -> None:
    parts = await compacting.rows()
    await compacting.worker().once()
    row = (await compacting.rows())[0]
    await first.objects.delete(row.path)
    await first.objects.put(row.path, b"x" * row.size_bytes)
    progress = Progress("compact")
    await compacting.worker(progress=progress, grace_s=-1.0).once()
    assert f"what {row.path} stands for is not deleted" in progress.problem
    folder = row.path.rpartition("/")[0]
    left = {path async for path in first.objects.list(f"{folder}/")}
    assert left == {one.path for one in parts if one.path.startswith(folder)} | {row.path}


async def test_a_restore_that_began_before_a_compaction_still_has_its_objects(first: Station, compacting: Compacting) -> None:
    table = await first.table()
    await first.mesh.rows("DELETE FROM sensor_readings RETURNING 1")
    async with aclosing(first.restore().run(Wanted(), "")) as progress:  # type: ignore[type-var]
        await anext(progress)
        await anext(progress)
        assert await compacting.worker(grace_s=-1.0).once() > 0
        last = [one async for one in progress][-1]
    assert last.restored_count >= len(table)
    await first.record_restored()
    assert await first.table() == table
    await compacting.worker(grace_s=-1.0).once()
    assert await compacting.nothing_is_left_over()
