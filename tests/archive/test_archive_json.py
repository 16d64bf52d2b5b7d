"""An archive in JSON, one object for each sensor: made, checked, compacted and restored as one in Parquet is."""

import gzip
import json
from collections import Counter

import pytest

from archive_svc.pack_json import unpack_json
from mesh.errors import Unavailable
from mesh.stages import Progress
from tests.archive.archiving import Archiving, FailingObjects, Place
from tests.archive.compacting import Compacting, is_sorted
from tests.archive.restoring import Station
from tests.archive.test_verify import checked, replaced
from tests.builders import some_readings


@pytest.fixture
async def filled(archiving: Archiving, place: Place) -> Place:
    """An archive in JSON."""
    await archiving.put_many(8, size=30)
    await archiving.archive_all(place, place.archive(by_json=True))
    return place


async def test_there_is_one_object_for_each_sensor_of_a_chunk_and_a_day(archiving: Archiving, filled: Place) -> None:
    rows = await filled.manifest_rows()
    assert filled.places() == Counter(archiving.put_places)
    assert sum(row.reading_count for row in rows) == sum((await filled.ledger()).values()) == len(archiving.put_places)
    for row in rows:
        whole = json.loads(gzip.decompress(filled.content()[row.path]))
        assert len(whole["readings"]) == row.reading_count
        assert f"-s{whole['sensor_id']}.json.gz" in row.path
    assert await checked(filled) == []


async def test_damage_is_found(filled: Place) -> None:
    first, second, third, *_ = await filled.manifest_rows()
    content = filled.content()
    flipped = bytearray(content[first.path])
    flipped[20] ^= 1
    await replaced(filled, first.path, bytes(flipped))
    await filled.objects.delete(second.path)
    await replaced(filled, third.path, gzip.compress(b"{}"))
    assert [one.path for one in await checked(filled)] == [first.path, second.path, third.path]


async def test_a_chunk_keeps_its_format_when_the_setting_changes_meanwhile(archiving: Archiving, place: Place) -> None:
    await archiving.put(some_readings(20, sensors=4))
    with pytest.raises(Unavailable, match="a test says so"):
        await place.archive(FailingObjects(place.objects, 2, after=True), by_json=True).run()
    await archiving.archive_all(place, place.archive(by_json=False))
    assert place.places() == Counter(archiving.put_places)
    assert {path.rpartition(".")[2] for path in place.data()} == {"gz"}
    assert await checked(place) == []


@pytest.mark.parametrize("both", [False, True])
async def test_an_archive_in_json_is_compacted_and_restored_to_the_same_table(
    first: Station, second: Station, both: bool
) -> None:
    compacting = Compacting(first)
    progress = Progress("compact")
    await compacting.worker(progress=progress, by_json=True, grace_s=-1.0).once()
    assert progress.problem == ""
    rows = await compacting.rows()
    assert all(row.path.endswith(".json.gz") for row in rows)
    assert len({row.path for row in rows}) > 40
    assert all([is_sorted(unpack_json(await first.objects.get(row.path))) for row in rows])
    assert await compacting.is_sound()
    assert await compacting.nothing_is_left_over()
    if both:  # and back
        await first.mesh.rows("SELECT 1")
        await compacting.worker(by_json=False).once()
    found = await second.restore_all("old")
    assert found[-1].unproven_count == 0
    assert await second.table() == await first.table()
    assert await Compacting(second).is_sound()
