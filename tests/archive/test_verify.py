"""A check of the archive finds whatever is not as the manifest says, and nothing else."""

import asyncio
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

import pytest

from archive_svc.chunks import Chunks
from archive_svc.manifest import Wanted, columns_of, enter
from archive_svc.manifest_record import ManifestRow, manifest_path, write_manifest_row
from archive_svc.put import sha256
from archive_svc.restore_tables import FOUND
from archive_svc.verify import AT_ONCE, Damaged, Verify
from mesh.errors import InvalidArgument, Unavailable
from mesh.shards import transaction
from tests.archive.archiving import PATIENCE_S, Archiving, FailingObjects, Place
from tests.builders import START_US, some_readings

DAY_US = 86_400_000_000


async def checked(place: Place, wanted: Wanted | None = None) -> list[Damaged]:
    """What a check finds; its last progress says that everything was checked."""
    verify = Verify(place.manifest, place.objects)
    progress = [one async for one in verify.run(wanted or Wanted())]
    assert progress[-1].checked_count == progress[-1].total_count
    counts = [one.checked_count for one in progress]
    assert counts == sorted(counts)
    return [one.damaged for one in progress if one.damaged]


@pytest.fixture
async def filled(archiving: Archiving, place: Place) -> Place:
    """An archive of some objects."""
    await archiving.put_many()
    await archiving.archive_all(place)
    return place


async def replaced(place: Place, path: str, content: bytes) -> None:
    await place.objects.delete(path)
    await place.objects.put(path, content)


async def test_an_archive_as_it_was_left_is_sound(filled: Place) -> None:
    assert await checked(filled) == []


async def test_an_empty_archive_is_sound(place: Place) -> None:
    assert await checked(place) == []


@pytest.mark.parametrize("place_in_file", [0.0, 0.1, 0.5, 0.9, 0.9999])
async def test_a_flipped_byte_is_found(filled: Place, place_in_file: float) -> None:
    row = (await filled.manifest_rows())[3]
    content = bytearray(filled.content()[row.path])
    content[int(place_in_file * len(content))] ^= 1
    await replaced(filled, row.path, bytes(content))
    (found,) = await checked(filled)
    assert (found.path, found.row) == (row.path, row)
    assert "sha256" in found.problem


@pytest.mark.parametrize("keep", [0, 1, -1])
async def test_a_truncated_object_is_found(filled: Place, keep: int) -> None:
    row = (await filled.manifest_rows())[0]
    await replaced(filled, row.path, filled.content()[row.path][:keep])
    (found,) = await checked(filled)
    assert found.path == row.path
    assert "truncated" in found.problem


async def test_a_missing_and_an_extra_object_are_found(filled: Place) -> None:
    row = (await filled.manifest_rows())[-1]
    content = filled.content()[row.path]
    extra = row.path.replace(".parquet", "-copy.parquet")
    await filled.objects.delete(row.path)
    await filled.objects.put(extra, content)
    await filled.objects.put("water_quality_data/notes.txt", b"hello")
    found = {one.path: one.problem for one in await checked(filled)}
    assert list(found) == [row.path, *sorted([extra, "water_quality_data/notes.txt"])]
    assert "missing" in found[row.path]
    assert "does not know this object" in found[extra]


async def test_a_missing_a_changed_and_an_extra_manifest_record_are_found(filled: Place) -> None:
    first, second, third, *_ = await filled.manifest_rows()
    await filled.objects.delete(manifest_path(first))
    await replaced(filled, manifest_path(second), write_manifest_row(replace(second, stored_us=5)))
    stranger = manifest_path(replace(third, log_id="another"))
    await filled.objects.put(stranger, write_manifest_row(third))
    found = {one.path: one.problem for one in await checked(filled)}
    assert list(found) == [first.path, second.path, stranger]
    assert "cannot be restored" in found[first.path]
    assert "does not say" in found[second.path]
    assert "does not know this manifest record" in found[stranger]


@pytest.mark.parametrize(
    "change", [{"reading_count": 1}, {"first_us": 1}, {"last_us": -1}, {"partition": 9}, {"log_id": "other"}]
)
async def test_a_manifest_that_says_something_else_than_the_object_is_found(filled: Place, change: dict[str, Any]) -> None:
    row = (await filled.manifest_rows())[0]
    changed = {name: getattr(row, name) + by if name.endswith("us") else by for name, by in change.items()}
    ((name, value),) = changed.items()
    await filled.rows(f"UPDATE archive.objects SET {name} = '{value}' WHERE path = '{row.path}' RETURNING 1")
    await replaced(filled, manifest_path(row), write_manifest_row(ManifestRow(**{**asdict(row), **changed})))
    found = {one.path: one.problem for one in await checked(filled)}
    assert name in found[row.path]


async def test_something_that_is_no_parquet_is_found_even_with_the_right_checksum(filled: Place) -> None:
    row = (await filled.manifest_rows())[0]
    content = b"x" * row.size_bytes
    await replaced(filled, row.path, content)
    await filled.rows(f"UPDATE archive.objects SET sha256 = '{sha256(content)}' WHERE path = '{row.path}' RETURNING 1")
    assert "no object of this archive" in (await checked(filled))[0].problem


async def test_a_link_in_the_place_of_an_object_is_found_and_not_followed(filled: Place) -> None:
    row = (await filled.manifest_rows())[0]
    await filled.objects.delete(row.path)
    (filled.folder / row.path).symlink_to("/etc/passwd")
    (found,) = await checked(filled)
    assert "symbolic link" in found.problem


async def test_only_what_is_wanted_is_checked(filled: Place) -> None:
    rows = await filled.manifest_rows()
    for row in rows:
        await filled.objects.delete(row.path)
    await filled.objects.put("water_quality_data/north/2026/01/01/x.parquet", b"")
    await filled.objects.put("water_quality_data/south/2026/01/01/x.parquet", b"")
    north = {one.path for one in await checked(filled, Wanted(("north",)))}
    assert north == {row.path for row in rows if row.region == "north"} | {"water_quality_data/north/2026/01/01/x.parquet"}
    early = Wanted(end_us=START_US)
    before = {one.path for one in await checked(filled, early)}
    assert before == {row.path for row in rows if row.first_us < START_US}
    late = {one.path for one in await checked(filled, Wanted(start_us=START_US + DAY_US))}
    assert late == {row.path for row in rows if row.last_us >= START_US + DAY_US}
    with pytest.raises(InvalidArgument):
        await checked(filled, Wanted(("../x",)))


async def test_what_is_being_archived_now_is_not_extra(archiving: Archiving, filled: Place) -> None:
    await archiving.put(some_readings(20, start=START_US + DAY_US))
    before = filled.content()
    with pytest.raises(Unavailable, match="a test says so"):
        await asyncio.wait_for(filled.archive(FailingObjects(filled.objects, 2, after=True)).run(), PATIENCE_S)
    assert len(filled.content()) == len(before) + 2  # the object and its manifest record
    assert await checked(filled) == []
    await filled.rows("DELETE FROM archive.chunks RETURNING 1")
    assert len(await checked(filled)) == 2
    assert await Chunks(filled.catalog, archiving.log.log_id).begin([]) == {}


async def test_what_a_restore_is_copying_now_is_not_extra(filled: Place, other_place: Place) -> None:
    rows = await filled.manifest_rows()
    async with transaction(other_place.catalog) as connection:
        await connection.execute(FOUND.insert(), [columns_of(row) for row in rows])
    for path in (rows[0].path, manifest_path(rows[0])):
        await other_place.objects.put(path, filled.content()[path])
    assert await checked(other_place) == []
    async with transaction(other_place.catalog) as connection:
        await enter(connection, rows[:2])
    (found,) = await checked(other_place)
    assert (found.path, found.problem) == (rows[1].path, "the object is missing")
    await other_place.rows("DELETE FROM archive.restore_found RETURNING 1")
    await other_place.rows(f"DELETE FROM archive.objects WHERE path = '{rows[0].path}' RETURNING 1")
    assert len(await checked(other_place)) == 3


async def test_few_objects_are_in_memory_at_a_time_and_a_check_that_is_left_reads_no_more(filled: Place) -> None:
    reading, most, count = 0, 0, 0

    class Counting(FailingObjects):
        """Counts what is read, and how much of it at a time."""

        async def get(self, path: str, limit: int | None = None) -> bytes:
            nonlocal reading, most, count
            reading, count = reading + 1, count + 1
            most = max(most, reading)
            await asyncio.sleep(0)
            try:
                return await super().get(path, limit)
            finally:
                reading -= 1

    verify = Verify(filled.manifest, Counting(filled.objects, 0))
    async with aclosing(verify.run(Wanted())) as progress:
        first = await anext(progress)
    assert (first.checked_count, count, reading) == (AT_ONCE, 2 * AT_ONCE, 0)
    assert first.total_count == len(await filled.manifest_rows()) > AT_ONCE
    await anext(aiter(verify.run(Wanted())))
    assert most <= AT_ONCE


async def test_objects_that_are_away_end_the_check(filled: Place) -> None:
    class Away(FailingObjects):
        """Answers nothing."""

        async def get(self, path: str, limit: int | None = None) -> bytes:
            raise Unavailable("the objects are away: a test says so")

    with pytest.raises(Unavailable):
        [one async for one in Verify(filled.manifest, Away(filled.objects, 0)).run(Wanted())]
