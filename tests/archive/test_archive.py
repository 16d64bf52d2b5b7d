"""The archive: each screened reading in exactly one object, counted once, with its manifest (laws 1, 4, 12)."""

import asyncio
from collections import Counter
from datetime import date

import duckdb
import pytest

from archive_svc.manifest_record import manifest_path, object_path, read_manifest_row
from archive_svc.put import sha256
from mesh.codec.log_records import read_dead
from mesh.errors import Fault
from mesh.ports import Partition, Record
from mesh.stages import Progress
from mesh.topics import DEAD, SCREENED, SCREENED_BACKFILL
from tests.archive.archiving import PATIENCE_S, SCREENED_0, Archiving, Place, end, flag, until, working
from tests.builders import START_US, a_reading, readings_of, some_readings
from water.readings import empty

DAY_US = 86_400_000_000


async def test_each_reading_is_in_one_object_of_its_region_and_day_and_the_manifest_says_so(
    archiving: Archiving, place: Place
) -> None:
    await archiving.put_many()
    await archiving.archive_all(place)
    assert place.places() == Counter(archiving.put_places)
    rows = await place.manifest_rows()
    data = place.data()
    assert [row.path for row in rows] == sorted(data)
    for row in rows:
        held = data[row.path]
        days = set((held.readings.measured_at_us // DAY_US).tolist())
        assert len(days) == 1
        day = date.fromordinal(date(1970, 1, 1).toordinal() + days.pop())
        topic, number = row.topic, row.partition
        assert row.path == object_path(held.region, day, archiving.log.log_id, topic, number, row.first_offset)
        content = place.content()
        assert (row.size_bytes, row.sha256) == (len(content[row.path]), sha256(content[row.path]))
        assert row.reading_count == len(held.readings)
        assert (row.first_us, row.last_us) == (held.readings.measured_at_us.min(), held.readings.measured_at_us.max())
        assert row.first_offset <= held.places.offset.min()
        assert held.places.offset.max() <= row.last_offset
        assert read_manifest_row(content[manifest_path(row)]) == row
    assert len(place.content()) == 2 * len(rows)


async def test_what_is_archived_is_counted_by_gateway_and_hour_of_arrival(archiving: Archiving, place: Place) -> None:
    await archiving.put(some_readings(30), gateway="a")
    await archiving.put(some_readings(20), gateway="b")
    await archiving.put(some_readings(5, seed=3), Partition(SCREENED_BACKFILL, 2), gateway="a", hour_us=7_200_000_000)
    await archiving.archive_all(place)
    assert await place.ledger() == {("a", "archived"): 35, ("b", "archived"): 20}
    hours = await place.rows("SELECT hour_us, count FROM ledger WHERE gateway_id = 'a' ORDER BY hour_us")
    assert hours == [(7_200_000_000, 5), (START_US, 30)]


async def test_duckdb_reads_a_whole_archive_by_its_public_columns(archiving: Archiving, place: Place) -> None:
    await archiving.put_many()
    await archiving.archive_all(place)
    with duckdb.connect() as database:
        pattern = str(place.folder / "water_quality_data/**/*.parquet")
        found = database.execute(
            """SELECT topic, partition, "offset", index FROM read_parquet(?) WHERE ph_level IS NOT NULL AND flags = 286331153""",
            [pattern],
        ).fetchall()
        regions = database.execute("SELECT DISTINCT region FROM read_parquet(?) ORDER BY 1", [pattern]).fetchall()
    assert Counter(found) == Counter(archiving.put_places)
    assert regions == [("north",), ("south",)]


async def test_a_second_archive_of_the_same_log_puts_the_same_bytes(
    archiving: Archiving, place: Place, other_place: Place
) -> None:
    await archiving.put_many()
    for one in (place, other_place):
        await archiving.archive_all(one)
    assert place.content() == other_place.content()


async def test_readings_wait_until_their_chunk_is_old_and_no_longer(archiving: Archiving, place: Place) -> None:
    await archiving.put(some_readings(30))
    async with working(place.archive(hurried=False, chunk_s=1000.0)):
        waited_s = await _archived_after(archiving, place, step_s=10.0)
    assert 1000.0 <= waited_s < 3000.0
    assert len(place.data()) == 1


async def test_many_readings_are_archived_when_nothing_comes_for_a_second(
    archiving: Archiving, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archive_svc.archive.IDLE_READINGS", 30)
    await archiving.put(some_readings(30))
    async with working(place.archive(hurried=False, chunk_s=3600.0)):
        waited_s = await _archived_after(archiving, place, step_s=0.1)
    assert 1.0 <= waited_s < 600.0


async def test_a_full_chunk_is_archived_at_once(archiving: Archiving, place: Place) -> None:
    for number in range(3):
        await archiving.put(some_readings(30, seed=number, start=START_US + number))
    async with working(place.archive(hurried=False, chunk_readings=90)):
        await until(lambda: archiving.passed(place))
    assert place.places() == Counter(archiving.put_places)


async def test_what_waits_over_all_partitions_is_bounded(
    archiving: Archiving, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archive_svc.archive.MOST_WAITING", 100)
    for number, count in enumerate((20, 70, 30)):
        await archiving.put(some_readings(count), Partition(SCREENED, number))
    async with working(place.archive(hurried=False)):
        await until(lambda: _has_objects(place))
        assert [len(found.readings) for found in place.data().values()] == [70]


async def test_records_without_readings_move_the_position_and_put_nothing(archiving: Archiving, place: Place) -> None:
    await archiving.put(flag(empty()))
    await archiving.archive_all(place)
    assert place.content() == {}
    assert await place.rows("SELECT * FROM archive.chunks") == []


async def test_times_from_the_year_1_to_9999_have_a_folder(archiving: Archiving, place: Place) -> None:
    await archiving.put(readings_of((1, -62_135_596_800_000_000, {"ph": 7.0}), (2, 253_402_300_799_999_999, {"ph": 7.0})))
    await archiving.archive_all(place)
    assert [path.split("/")[2:5] for path in sorted(place.data())] == [["0001", "01", "01"], ["9999", "12", "31"]]


async def test_what_cannot_be_archived_is_buried_once_with_its_reason_and_the_rest_goes_on(
    archiving: Archiving, place: Place
) -> None:
    await archiving.put(some_readings(3), value=b"\xff\xff", gateway="a")
    await archiving.put(some_readings(4), region="../etc", count=4)
    await archiving.put(some_readings(5), count=6)
    await archiving.put(a_reading(1, 2**62), count=1)
    await archiving.put(some_readings(7))
    await archiving.archive_all(place)
    await archiving.archive_all(place)
    letters = [read_dead(stored.record.value) for stored in await archiving.log.read(Partition(DEAD, 0), 0, 100)]
    assert [(letter.stage, letter.topic, letter.offset, letter.reading_count) for letter in letters] == [
        ("archive", "screened", 0, 3),
        ("archive", "screened", 1, 4),
        ("archive", "screened", 2, 6),
        ("archive", "screened", 3, 1),
    ]
    assert "no folder" in letters[1].problem
    assert "headers say 6" in letters[2].problem
    assert "years 1 to 9999" in letters[3].problem
    assert place.places() == Counter(archiving.put_places)
    assert await place.ledger() == {("g1", "archived"): 7}


async def test_a_missing_record_stops_the_worker_and_one_had_before_is_dropped(archiving: Archiving, place: Place) -> None:
    await archiving.put(a_reading(1))
    await archiving.put(a_reading(2), source=0, previous=-1, count=1)
    await archiving.put(a_reading(3), source=1, previous=0)
    await archiving.archive_all(place)
    assert place.places() == Counter([("screened", 0, 0, 0), ("screened", 0, 2, 0)])
    await archiving.put(a_reading(3), source=7, previous=6)
    with pytest.raises(Fault, match="missing"):
        await asyncio.wait_for(place.archive().run(), PATIENCE_S)


@pytest.mark.parametrize("headers", [{}, {"source": "x"}, {"gateway": "g", "source": "0:-1"}])
async def test_a_record_that_no_screener_wrote_is_passed_by_and_stops_nobody(
    archiving: Archiving, place: Place, headers: dict[str, str]
) -> None:
    await (await archiving.log.append(Partition(SCREENED, 0), Record(b"\xff\xff", headers)))
    await archiving.put(a_reading(1))
    await archiving.archive_all(place)
    assert place.places() == Counter([("screened", 0, 1, 0)])


async def test_two_workers_share_the_partitions_and_each_reading_is_archived_once(archiving: Archiving, place: Place) -> None:
    async with working(place.archive(chunk_readings=150)) as (first,):
        await archiving.put_many(20)
        async with working(place.archive(chunk_readings=150)):
            await archiving.put_many(20)
            await until(lambda: archiving.passed(place))
            await end(first)
            await archiving.put_many(20)
            await until(lambda: archiving.passed(place))
    assert place.places() == Counter(archiving.put_places)
    assert sum((await place.ledger()).values()) == len(archiving.put_places)


async def test_progress_says_how_far_everything_is_archived(archiving: Archiving, place: Place) -> None:
    progress = Progress("archive")
    await archiving.put(some_readings(30))
    await archiving.put(some_readings(30, seed=1, start=START_US + 1))
    async with working(place.archive(progress=progress)):
        await until(lambda: archiving.passed(place))
        assert progress.next_offset[SCREENED_0] == 2
        assert progress.handled_count == 2


async def _archived_after(archiving: Archiving, place: Place, step_s: float) -> float:
    """Lets the time pass, a step at a time, until everything is archived; seconds."""
    async with asyncio.timeout(PATIENCE_S):
        while not await archiving.passed(place):
            archiving.clock.advance(step_s)
            await asyncio.sleep(0.01)
    return (archiving.clock.now_us() - START_US) / 1e6


async def _has_objects(place: Place) -> bool:
    return bool(await place.rows("SELECT 1 FROM archive.objects"))
