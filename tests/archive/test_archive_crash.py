"""Whatever breaks while readings are archived, and whoever else archives them: the same objects, each reading once (law 4)."""

import asyncio
import io
import random
from collections import Counter

import pyarrow.parquet as pq
import pytest

from archive_svc.archive import Archive
from archive_svc.chunk import Chunk
from archive_svc.chunks import TOPICS, Chunks
from archive_svc.manifest import Wanted
from archive_svc.verify import Verify
from mesh import positions
from mesh.errors import FailedPrecondition, Fault, ObjectConflict, PositionLost, Unavailable
from mesh.ports import Objects
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction
from mesh.stages import Progress
from tests.archive.archiving import PATIENCE_S, SCREENED_0, Archiving, FailingObjects, Place, end, until, working
from tests.builders import START_US, some_readings


async def _sound(archiving: Archiving, place: Place) -> None:
    """Every reading that was put is in one object, counted once, and the check of the whole archive finds nothing."""
    assert place.places() == Counter(archiving.put_places)
    assert sum((await place.ledger()).values()) == len(archiving.put_places)
    assert await place.rows("SELECT * FROM archive.chunks") == []
    found = [checked async for checked in Verify(place.manifest, place.objects).run(Wanted())]
    assert [checked.damaged for checked in found if checked.damaged] == []


async def _broken(archive: Archive) -> bool:
    """Runs it until its objects fail; False: they did not before everything was archived."""
    with pytest.raises(Unavailable, match="a test says so"):
        await asyncio.wait_for(archive.run(), PATIENCE_S)
    return True


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_put_ends_in_the_objects_of_an_undisturbed_run(
    archiving: Archiving, place: Place, other_place: Place, after: bool
) -> None:
    for day in range(3):
        for region in ("north", "south"):
            await archiving.put(some_readings(20, start=START_US + day * 86_400_000_000), region=region)
    await archiving.archive_all(place)
    undisturbed = place.content()
    assert len(undisturbed) == 12
    for fail_at in (1, 2, 5, 6, 7, 11, 12):
        assert await _broken(other_place.archive(FailingObjects(other_place.objects, fail_at, after)))
        assert other_place.content().items() <= undisturbed.items()
        assert await other_place.ledger() == {}
        # What comes meanwhile belongs to a later chunk, however often the first is tried.
    await archiving.put(some_readings(10, start=START_US + 9 * 86_400_000_000))
    await archiving.archive_all(other_place)
    content = other_place.content()
    assert {path: content[path] for path in undisturbed} == undisturbed
    assert len(content) == 14
    await _sound(archiving, other_place)


@pytest.mark.parametrize("seed", range(4))
async def test_stops_and_failures_at_random_moments_archive_each_reading_once(
    archiving: Archiving, place: Place, seed: int
) -> None:
    chance = random.Random(seed)

    async def put() -> None:
        for _ in range(10):
            await archiving.put_many(8, size=50)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        for _ in range(12):
            failing: Objects = FailingObjects(place.objects, chance.randint(1, 60), after=chance.random() < 0.5)
            task = asyncio.create_task(place.archive(failing, chunk_readings=chance.randint(1, 400)).run())
            done, _ = await asyncio.wait([task], timeout=chance.random() * 0.3)
            if not done:
                await end(task)
            elif not isinstance(task.exception(), Unavailable):
                raise AssertionError("only the objects were to fail") from task.exception()
    await archiving.archive_all(place)
    await _sound(archiving, place)


async def test_of_two_archivers_of_one_chunk_one_ends_with_position_lost(archiving: Archiving, place: Place) -> None:
    await archiving.put(some_readings(20))
    await archiving.put(some_readings(20, seed=1, start=START_US + 1))
    waiting, go_on = asyncio.Event(), asyncio.Event()

    class Halting(FailingObjects):
        """Stands still before its first put."""

        async def put(self, path: str, content: bytes) -> bool:
            waiting.set()
            await go_on.wait()
            return await super().put(path, content)

    zombie = asyncio.create_task(place.archive(Halting(place.objects, 0)).run())
    async with asyncio.timeout(PATIENCE_S):
        await waiting.wait()
    chunks = Chunks(place.catalog, archiving.log.log_id)
    ((had, chunk),) = (await chunks.begin([SCREENED_0])).values()
    assert chunk is not None
    with pytest.raises(PositionLost, match="cut"):
        await chunks.cut(Chunk(archiving.log.log_id, SCREENED_0, had, Position(0, 0), START_US))
    await place.archive()._redo(chunk)  # as a worker does that has got the partition
    go_on.set()
    with pytest.raises(PositionLost):
        await asyncio.wait_for(zombie, PATIENCE_S)
    await _sound(archiving, place)


async def test_a_chunk_that_waits_is_lost_to_whoever_has_archived_it(archiving: Archiving, place: Place) -> None:
    progress = Progress("archive")
    zombie = asyncio.create_task(place.archive(progress=progress).run())

    async def began() -> bool:
        return SCREENED_0 in progress.next_offset

    await until(began)
    async with transaction(place.catalog) as connection:
        await positions.move(connection, "archive", archiving.log.log_id, SCREENED_0, {NO_SLOT: NOWHERE}, Position(9, 9))
    await archiving.put(some_readings(20))
    with pytest.raises(PositionLost):
        await asyncio.wait_for(zombie, PATIENCE_S)
    assert place.content() == {}
    assert await place.ledger() == {}


async def test_readings_that_another_pyarrow_packed_before_the_crash_are_left_as_they_are(
    archiving: Archiving, place: Place
) -> None:
    await archiving.put(some_readings(20))
    await _broken(place.archive(FailingObjects(place.objects, 1, after=True)))
    (path,) = place.content()
    repacked = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(place.content()[path])), repacked, compression="gzip")
    await place.objects.delete(path)
    await place.objects.put(path, repacked.getvalue())
    await archiving.archive_all(place)
    assert place.content()[path] == repacked.getvalue()
    await _sound(archiving, place)


async def test_an_object_with_other_readings_in_our_place_is_never_taken_for_ours(archiving: Archiving, place: Place) -> None:
    await archiving.put(some_readings(20))
    await _broken(place.archive(FailingObjects(place.objects, 1, after=True)))
    (path,) = place.content()
    await place.objects.delete(path)
    await place.objects.put(path, b"somebody else's")
    with pytest.raises(ObjectConflict):
        await asyncio.wait_for(place.archive().run(), PATIENCE_S)
    assert await place.ledger() == {}


async def test_records_that_left_the_log_before_their_chunk_was_archived_stop_the_worker(
    archiving: Archiving, place: Place
) -> None:
    await archiving.put(some_readings(20))
    await archiving.put(some_readings(20, seed=1, start=START_US + 1))
    await _broken(place.archive(FailingObjects(place.objects, 1)))
    archiving.clock.advance(10)
    assert await archiving.log.trim(SCREENED_0, 1, archiving.clock.now_us()) == 1
    with pytest.raises(Fault, match="missing"):
        await asyncio.wait_for(place.archive().run(), PATIENCE_S)


async def test_positions_of_another_log_are_refused(archiving: Archiving, place: Place) -> None:
    await archiving.put(some_readings(20))
    await archiving.archive_all(place)
    await place.rows("UPDATE positions SET log_id = 'other' RETURNING 1")
    with pytest.raises(FailedPrecondition) as caught:
        await asyncio.wait_for(place.archive().run(), PATIENCE_S)
    assert caught.value.reason == "OTHER_LOG"


async def test_a_kill_between_the_puts_and_the_transaction_archives_all_the_same(archiving: Archiving, place: Place) -> None:
    await archiving.put_many()

    class Slow(FailingObjects):
        """Tells when the last manifest record is put."""

        async def put(self, path: str, content: bytes) -> bool:
            created = await super().put(path, content)
            if path.startswith("manifest/"):
                task.cancel()
            return created

    task = asyncio.create_task(place.archive(Slow(place.objects, 0)).run())
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.cancelled()
    async with working(place.archive(), place.archive()):
        await until(lambda: archiving.passed(place))
    await _sound(archiving, place)


def test_the_archive_reads_what_was_screened() -> None:
    assert TOPICS == ("screened", "screened_backfill")
