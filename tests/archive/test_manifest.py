"""The manifest is listed by path, in pages that stay true while objects are added."""

from dataclasses import replace

import pytest

from archive_svc.manifest import Wanted, enter
from archive_svc.manifest_record import ManifestRow
from archive_svc.tables import create_tables
from mesh.errors import InvalidArgument
from mesh.shards import transaction
from tests.archive.archiving import Archiving, Place
from tests.builders import START_US


async def all_pages(place: Place, wanted: Wanted, size: int) -> list[ManifestRow]:
    found, token = await place.manifest.page(wanted, size, "")
    while token:
        more, token = await place.manifest.page(wanted, size, token)
        assert 0 < len(more) <= size
        found += more
    return found


@pytest.fixture
async def filled(archiving: Archiving, place: Place) -> Place:
    await archiving.put_many()
    await archiving.archive_all(place)
    return place


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_pages_of_any_size_hold_every_object_once_by_path(filled: Place, size: int) -> None:
    rows = await all_pages(filled, Wanted(), size)
    assert [row.path for row in rows] == sorted(path for path in filled.content() if path.startswith("water"))
    assert await filled.manifest.count(Wanted()) == len(rows)


async def test_a_filter_takes_regions_and_overlapping_times(filled: Place) -> None:
    rows = await filled.manifest_rows()
    for wanted in (
        Wanted(("south",)),
        Wanted(("south", "north", "south")),
        Wanted(("nowhere",)),
        Wanted(start_us=START_US),
        Wanted(end_us=START_US),
        Wanted(start_us=rows[0].last_us, end_us=rows[0].last_us + 1),
        Wanted(start_us=rows[0].last_us + 1),
        Wanted(end_us=rows[0].first_us),
        Wanted(("north",), START_US - 1, START_US + 1),
    ):
        expected = [row for row in rows if holds(wanted, row)]
        assert await all_pages(filled, wanted, 2) == expected
        assert await filled.manifest.count(wanted) == len(expected)


async def test_a_page_token_survives_what_is_archived_meanwhile(filled: Place) -> None:
    rows = await filled.manifest_rows()
    first, token = await filled.manifest.page(Wanted(), 3, "")
    early = replace(rows[0], path="water_quality_data/aaa/2026/01/01/a-screened-0-00000000000000000000.parquet")
    late = replace(rows[0], path="water_quality_data/zzz/2026/01/01/z-screened-0-00000000000000000000.parquet")
    async with transaction(filled.catalog) as connection:
        await enter(connection, [early, late])
    rest, _ = await filled.manifest.page(Wanted(), 1000, token)
    assert first + rest == [*rows, late]


async def test_a_wrong_size_token_or_filter_is_refused_by_its_field(filled: Place) -> None:
    _, token = await filled.manifest.page(Wanted(), 1, "")
    for wanted, size, page_token, reason, field in (
        (Wanted(), -1, "", "INVALID_ARGUMENT", "page_size"),
        (Wanted(), 1, "garbage", "INVALID_TOKEN", "page_token"),
        (Wanted(("north",)), 1, token, "QUESTION_CHANGED", "page_token"),
        (Wanted(("../x",)), 1, "", "INVALID_FILTER", "filter.regions"),
        (Wanted(("r",) * 1001), 1, "", "INVALID_FILTER", "filter.regions"),
        (Wanted(start_us=5, end_us=5), 1, "", "INVALID_FILTER", "filter.end_time"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await filled.manifest.page(wanted, size, page_token)
        assert (caught.value.reason, list(caught.value.fields)) == (reason, [field])


async def test_zero_is_a_hundred_and_a_thousand_is_the_most(place: Place, archiving: Archiving) -> None:
    row = ManifestRow("", 1, 1, "0" * 64, START_US, START_US, archiving.log.log_id, "screened", 0, 0, 0, 0)
    paths = [f"water_quality_data/north/2026/01/01/a-screened-0-{number:020}.parquet" for number in range(1100)]
    async with transaction(place.catalog) as connection:
        await enter(connection, [replace(row, path=path) for path in paths])
    assert len((await place.manifest.page(Wanted(), 0, ""))[0]) == 100
    assert len((await place.manifest.page(Wanted(), 5000, ""))[0]) == 1000


async def test_tables_are_made_again_without_harm(filled: Place) -> None:
    rows = await filled.manifest_rows()
    await create_tables(filled.catalog)
    assert await filled.manifest_rows() == rows


def holds(wanted: Wanted, row: ManifestRow) -> bool:
    return (
        (not wanted.regions or row.region in wanted.regions)
        and (wanted.start_us is None or row.last_us >= wanted.start_us)
        and (wanted.end_us is None or row.first_us < wanted.end_us)
    )
