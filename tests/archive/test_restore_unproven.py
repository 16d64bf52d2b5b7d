"""A restore knows when an archive does not tell yet what lost: it waits, then puts such objects last and says so (laws 1, 5)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from archive_svc.manifest import Wanted
from archive_svc.restore import Restored
from mesh.ports import Partition
from mesh.topics import SCREENED
from tests.archive.restoring import Station, files, other_ph, random_flags, send_history, station
from tests.builders import some_readings
from tests.query.deployment import FreshDatabase, record_all


@pytest.fixture
async def first(fresh_database: FreshDatabase, tmp_path: Path) -> AsyncIterator[Station]:
    """Of every key of some sensors one partition has the reading that was recorded first, and another one, which is archived
    before it, a reading with other values. What the first has is recorded, exported and told of, what the other has is not."""
    async with station(fresh_database, tmp_path / "first") as one:
        readings = some_readings(200, sensors=10)
        await one.mesh.put(random_flags(readings, 1), Partition(SCREENED, 3))
        await record_all(one.mesh)
        await one.export()
        await one.mesh.put(random_flags(other_ph(readings, 2.5), 2), Partition(SCREENED, 0))
        await one.archive()
        yield one


@pytest.fixture
async def second(fresh_database: FreshDatabase, tmp_path: Path, first: Station) -> AsyncIterator[Station]:
    async with station(fresh_database, tmp_path / "second") as one:
        one.sources["old"] = first.objects
        yield one


async def restored(one: Station, told_within_s: float) -> list[Restored]:
    found = [step async for step in one.restore(told_within_s).run(Wanted(), "old")]
    await one.record_restored()
    return found


async def test_what_may_have_lost_comes_last_and_is_counted(first: Station, second: Station) -> None:
    await record_all(first.mesh)
    progress = await restored(second, told_within_s=0.0)
    assert (progress[-1].restored_count, progress[-1].unproven_count) == (400, 200)
    assert await second.table() == await first.table()


async def test_a_restore_waits_until_it_is_told_what_lost(first: Station, second: Station) -> None:
    found: list[Restored] = []
    begun = asyncio.Event()

    async def restore() -> None:
        async for step in second.restore(told_within_s=30.0).run(Wanted(), "old"):
            found.append(step)
            begun.set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(restore())
        await begun.wait()
        assert found == [Restored(0, 400)]
        await record_all(first.mesh)
        await first.export()
    assert found[-1].positions
    assert (found[-1].restored_count, found[-1].total_count, found[-1].unproven_count) == (200, 200, 0)
    await second.record_restored()
    assert await second.table() == await first.table()


async def test_what_was_told_is_copied_so_that_a_second_restore_is_proven_too(first: Station, second: Station) -> None:
    await send_history(first.mesh)
    await first.record_and_archive()
    assert (await restored(second, 0.0))[-1].unproven_count == 0
    second.sources.clear()
    again = await second.restore_all()
    assert again[-1].unproven_count == 0
    assert await second.table() == await first.table()


async def test_one_shard_that_has_not_told_is_enough(first: Station, second: Station) -> None:
    await first.record_and_archive()
    told = files(first.folder / "manifest", ".txt")
    assert len(told) == 2
    told[1].unlink()
    assert (await restored(second, 0.0))[-1].unproven_count == 200


async def test_what_was_told_is_not_believed_when_it_was_changed(first: Station, second: Station) -> None:
    told = files(first.folder / "manifest", ".txt")[0]
    told.write_bytes(told.read_bytes().replace(b"screened", b"screeneD"))
    with pytest.raises(Exception, match="is damaged") as refused:
        await restored(second, 0.0)
    assert str(told.relative_to(first.folder)) in str(refused.value)
