"""A record that is missing in the manifest of another archive is noticed, and what was only just being put is no loss."""

from collections import Counter
from pathlib import Path

import pytest

from archive_svc.day_notes import read_note_path
from archive_svc.manifest import Wanted
from archive_svc.manifest_record import manifest_path
from mesh.errors import FailedPrecondition
from tests.archive.compacting import Compacting
from tests.archive.restoring import Station


async def refused(one: Station) -> FailedPrecondition:
    """Why nothing is restored."""
    with pytest.raises(FailedPrecondition) as error:
        await one.restore_all("old")
    assert await one.table() == []
    assert error.value.reason == "INVALID_MANIFEST"
    return error.value


async def test_a_missing_record_is_noticed_by_its_object(first: Station, second: Station) -> None:
    rows = await Compacting(first).rows()
    chunks = Counter((row.topic, row.partition, row.first_offset) for row in rows)
    row = next(row for row in rows if chunks[row.topic, row.partition, row.first_offset] > 1)
    content = await first.objects.get(manifest_path(row))
    await first.objects.delete(manifest_path(row))
    assert row.path in (await refused(second)).message
    await first.objects.put(manifest_path(row), content)
    await second.restore_all("old")
    assert await second.table() == await first.table()


async def test_what_is_behind_everything_known_may_be_on_its_way_unless_the_archive_has_said_that_it_passed_it(
    first: Station, second: Station
) -> None:
    rows = await Compacting(first).rows()
    last = [row for row in rows if row.topic == "screened" and row.partition == 3]
    for row in last:
        await first.objects.delete(manifest_path(row))
    found = await second.restore_all("old")
    assert found[-1].restored_count > 0
    await Compacting(first).worker(after_h=0.0).once()  # its word tells how far it was
    with pytest.raises(FailedPrecondition, match="its record in the manifest is missing"):
        await second.restore_all("old")


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("missing", ["record", "note"])
async def test_a_missing_record_or_note_of_a_compacted_day_is_noticed(
    first: Station, second: Station, missing: str, swept: bool
) -> None:
    compacting = Compacting(first)
    await compacting.worker(grace_s=-1.0 if swept else 1e9).once()
    paths = [path async for path in first.objects.list("manifest/")]
    records = [manifest_path(row) for row in await compacting.rows()]
    notes = [path for path in paths if read_note_path(path)]
    gone = records[0] if missing == "record" else notes[0]
    await first.objects.delete(gone)
    assert "is not complete" in (await refused(second)).message


async def test_a_missing_object_is_named(first: Station, second: Station) -> None:
    compacting = Compacting(first)
    await compacting.worker(grace_s=-1.0).once()
    path = (await compacting.rows())[0].path
    await first.objects.delete(path)
    with pytest.raises(FailedPrecondition, match="it is missing") as error:
        await second.restore_all("old")
    assert (error.value.reason, error.value.metadata["path"]) == ("OBJECT_DAMAGED", path)


@pytest.mark.parametrize("content", [b'{"stem": 5}', b"[" * 100_000])
async def test_a_note_of_somebody_else_is_not_believed(first: Station, second: Station, content: bytes) -> None:
    compacting = Compacting(first)
    await compacting.worker().once()
    path = next(path for path in [path async for path in first.objects.list("manifest/")] if path.endswith("-done.txt"))
    await first.objects.delete(path)
    await first.objects.put(path, content)
    assert path in (await refused(second)).message


async def test_strange_files_beside_the_objects_are_left_alone(first: Station, second: Station, tmp_path: Path) -> None:
    for name in ("notes.txt", "north/2026/01/01/readme.parquet", "north/2026/01/01/x-screened-0-1.parquet"):
        await first.objects.put(f"water_quality_data/{name}", b"hello")
    await second.restore_all("old")
    assert await second.table() == await first.table()


async def test_a_restore_that_began_before_the_source_was_compacted_goes_on(first: Station, second: Station) -> None:
    await second.restore_all("old", Wanted(("north",)))
    await Compacting(first).worker(grace_s=-1.0).once()
    await second.restore_all("old")
    assert await second.table() == await first.table()
    assert await Compacting(second).is_sound()
    third = Compacting(second)
    await third.worker(grace_s=-1.0).once()
    assert await third.is_sound()


async def test_what_was_restored_can_be_restored_from_again(first: Station, second: Station, third: Station) -> None:
    await Compacting(first).worker(grace_s=-1.0).once()
    await second.restore_all("old", Wanted(("north",)))
    third.sources["old"] = second.objects
    await third.restore_all("old")
    assert await third.table() == await second.table()
    await second.restore_all("old")
    await third.restore_all("old")
    assert await third.table() == await first.table()
