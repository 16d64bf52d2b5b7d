"""The archive says of a day that it holds it when it has read back everything of it, and of nothing else (verified_days.py)."""

from collections.abc import Mapping

import pytest

from mesh.clock import ManualClock
from mesh.codec.verified_days import VerifiedDays, is_verified, read_verified
from mesh.ports import Partition
from mesh.stages import Progress
from mesh.topics import SCREENED
from tests.archive.compacting import Compacting
from tests.archive.restoring import DAY_US, Station, random_flags
from tests.builders import START_US, some_readings


@pytest.fixture
def compacting(first: Station) -> Compacting:
    return Compacting(first)


async def word(one: Station) -> VerifiedDays:
    """The only one that there is."""
    paths = [path async for path in one.objects.list("manifest/") if is_verified(path)]
    assert len(paths) == 1
    return read_verified(paths[0], await one.objects.get(paths[0]))


def recorded(one: Station) -> Mapping[tuple[str, int], int]:
    """The offset of the last record of each partition: one record, one source offset here."""
    return {(place.topic, place.number): last for place, last in one.mesh.sources.items()}


@pytest.mark.parametrize("after_h", [0.0, 1.0])
async def test_days_are_held_once_they_are_read_back_with_or_without_compaction(
    first: Station, compacting: Compacting, after_h: float
) -> None:
    progress = Progress("compact")
    await compacting.worker(progress=progress, after_h=after_h).once()
    said = await word(first)
    for day in range(-1, 3):
        assert said.holds(START_US + day * DAY_US, recorded(first)), day
    assert (said.log_id, said.unverified) == (first.mesh.log.log_id, frozenset())
    assert progress.problem == ""
    further = {("screened", 0): recorded(first)["screened", 0] + 1}
    assert not said.holds(START_US, further)


async def test_a_day_that_is_not_over_is_not_held(first: Station, compacting: Compacting) -> None:
    await compacting.worker(clock=ManualClock(START_US + DAY_US + 3_599_999_999), quiet_s=-1e9).once()
    assert not (await word(first)).holds(START_US, {})
    await compacting.worker(clock=ManualClock(START_US + DAY_US + 3_600_000_000), quiet_s=-1e9).once()
    assert (await word(first)).holds(START_US, recorded(first))
    assert not (await word(first)).holds(START_US + DAY_US, {})


async def test_a_day_of_which_an_object_is_damaged_or_missing_is_not_held_and_is_a_problem(
    first: Station, compacting: Compacting
) -> None:
    row = next(row for row in await compacting.rows() if row.first_us >= START_US + DAY_US)
    content = await first.objects.get(row.path)
    await first.objects.delete(row.path)
    progress = Progress("compact")
    await compacting.worker(progress=progress, after_h=0.0).once()
    said = await word(first)
    day_us = row.first_us // DAY_US * DAY_US
    assert said.unverified == {day_us}
    assert not said.holds(day_us, {})
    assert f"{row.path}: the object is missing" in progress.problem
    await first.objects.put(row.path, content)
    await compacting.worker(progress=progress, after_h=0.0).once()
    assert (await word(first)).holds(day_us, recorded(first))
    assert progress.problem == ""


async def test_what_comes_late_for_a_day_is_held_once_it_is_read_back_too(first: Station, compacting: Compacting) -> None:
    await compacting.worker(after_h=0.0).once()
    before = await word(first)
    late = random_flags(some_readings(50, sensors=[1], start=START_US + 17), 1)
    await first.mesh.put(late, Partition(SCREENED, 0), "g0", "north")
    await first.record_and_archive()
    assert not before.holds(START_US, recorded(first))
    await compacting.worker(after_h=0.0).once()
    assert (await word(first)).holds(START_US, recorded(first))


async def test_a_word_that_says_nothing_new_is_not_put_again(first: Station, compacting: Compacting) -> None:
    worker = compacting.worker(after_h=0.0)
    await worker.once()
    said = await word(first)
    await worker.once()
    assert (await word(first)).said_us == said.said_us
