"""Wherever a compaction or a sweep is killed, the manifest names what is there, and the next one ends as an undisturbed one."""

import asyncio
import random
from contextlib import suppress

import pytest

from archive_svc import day_objects
from archive_svc.manifest import Wanted
from mesh.adapters.directory import DirectoryObjects
from mesh.ports import Partition
from mesh.topics import SCREENED
from tests.archive.compacting import Compacting, is_sorted
from tests.archive.restoring import DAY_US, Station, random_flags
from tests.builders import START_US, some_readings


class Mortal(DirectoryObjects):
    """Objects whose user is cancelled at the `left`-th call, before or after it had its effect."""

    def arm(self, user: "asyncio.Task[int]", left: int, after: bool) -> None:
        self.user, self.left, self.after = user, left, after

    def _count(self, after: bool) -> None:
        if after == self.after:
            self.left -= 1
            if self.left == 0:
                self.user.cancel()

    async def put(self, path: str, content: bytes) -> bool:
        self._count(after=False)
        await asyncio.sleep(0)  # where a cancel comes
        created = await super().put(path, content)
        self._count(after=True)
        await asyncio.sleep(0)
        return created

    async def get(self, path: str, limit: int | None = None) -> bytes:
        self._count(after=False)
        await asyncio.sleep(0)
        return await super().get(path, limit)

    async def delete(self, path: str) -> None:
        self._count(after=False)
        await asyncio.sleep(0)
        await super().delete(path)
        self._count(after=True)
        await asyncio.sleep(0)


async def killed(compacting: Compacting, left: int, after: bool, grace_s: float) -> bool:
    """Runs the worker until it is killed; False: it ended before."""
    objects = Mortal(compacting.station.folder)
    task = asyncio.create_task(compacting.worker(objects, grace_s=grace_s).once())
    objects.arm(task, left, after)
    with suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


@pytest.mark.parametrize("seed", range(4))
async def test_a_compaction_that_is_killed_anywhere_loses_nothing(
    first: Station, second: Station, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_objects, "GROUP_READINGS", 100)
    monkeypatch.setattr(day_objects, "MOST_DAY_READINGS", 300)  # several objects a day
    chance, compacting, kills = random.Random(seed), Compacting(first), 0
    archived = sum(row.reading_count for row in await compacting.rows())
    for number in range(8):
        kills += await killed(
            compacting, chance.randrange(1, 12 + 8 * number), chance.random() < 0.5, -1.0 if number % 2 else 1e9
        )
        assert await compacting.is_sound()
        if number == 4:
            late = random_flags(some_readings(60, sensors=[1, 2], seed=9, start=START_US + DAY_US // 7), seed)
            archived += len(late)
            await first.mesh.put(late, Partition(SCREENED, 0), "g0", "north")
            await first.record_and_archive()
    assert kills
    second.sources["old"] = first.objects
    await second.restore_all("old")  # in the middle of it
    assert await second.table() == await first.table()
    for _ in range(2):
        await compacting.worker(grace_s=-1.0).once()
    assert all(is_sorted(day) for day in (await compacting.days()).values())
    assert await compacting.nothing_is_left_over()
    assert await compacting.is_sound()
    assert (
        await compacting.count("SELECT (SELECT count(*) FROM archive.replaced) + (SELECT count(*) FROM archive.compactions)") == 0
    )
    assert await compacting.count("SELECT sum(count) FROM ledger WHERE measure = 'archived'") == archived
    await second.restore_all("old")
    assert await second.table() == await first.table()


@pytest.mark.parametrize("left", [1, 4, 6, 8, 9, 14])
@pytest.mark.parametrize("after", [False, True])
async def test_another_deployment_is_restored_from_what_a_killed_compaction_left(
    first: Station, second: Station, left: int, after: bool
) -> None:
    """The steps of the first day: begun, parts, object, read back, record, commit, note, begun gone; then the next."""
    assert await killed(Compacting(first), left, after, grace_s=-1.0)
    found = await second.restore_all("old")
    assert await second.table() == await first.table()
    assert found[-1].unproven_count == 0
    # It is the other's own now, whatever becomes of the first.
    for path in [path async for path in first.objects.list("")]:
        await first.objects.delete(path)
    assert await Compacting(second).is_sound()
    await second.mesh.rows("DELETE FROM sensor_readings RETURNING 1")
    await second.restore_all("", Wanted())
    assert await second.table() == await first.table()
