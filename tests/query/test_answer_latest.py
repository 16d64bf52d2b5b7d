"""The newest reading of each sensor, by measured time, on however many shards and pages."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from mesh.errors import InvalidArgument
from query_svc.answer import Paging
from query_svc.filters import ReadingFilter
from tests.builders import SECOND_US, START_US, a_reading
from tests.query.answering import NOW, SENSOR_COUNT, Answering, answering, expected, random_readings, same
from tests.query.deployment import FreshDatabase, flag
from water.readings import Readings, concatenate


@pytest.fixture
async def asked(fresh_database: FreshDatabase) -> AsyncIterator[Answering]:
    async with answering(fresh_database) as made:
        yield made


async def all_pages(asked: Answering, question: ReadingFilter, size: int) -> Readings:
    parts, token = [], ""
    while True:
        found, token = await asked.answer.get_latest(question, Paging(size, token), NOW)
        parts.append(found)
        if not token:
            return concatenate(parts)
        assert len(found) == size


def newest(readings: Readings) -> Readings:
    """Of each sensor the last; readings are by sensor and time."""
    return readings.take(np.flatnonzero(np.append(readings.sensor_id[1:] != readings.sensor_id[:-1], True)))


async def test_the_newest_by_measured_time_wins_whenever_it_arrived(asked: Answering) -> None:
    await asked.store(flag(a_reading(1, START_US + SECOND_US, ph=8.0)))
    await asked.store(flag(a_reading(1, START_US, ph=6.0)))
    (found, token) = await asked.answer.get_latest(ReadingFilter((1, 2)), Paging(), NOW)
    assert (found.sensor_id.tolist(), found.values[0].tolist(), token) == ([1], [8.0], "")


async def test_every_sensor_comes_once_with_its_newest_reading_on_pages_of_any_size(asked: Answering) -> None:
    await asked.store(random_readings(500))
    every = ReadingFilter(tuple(range(1, SENSOR_COUNT + 30)))
    for question in (every, ReadingFilter(), ReadingFilter(regions=("north", "south"))):
        for size in (1, 5, SENSOR_COUNT, 1000):
            assert same(await all_pages(asked, question, size), newest(asked.stored))


async def test_a_sensor_belongs_to_the_region_of_its_newest_reading(asked: Answering) -> None:
    await asked.store(random_readings(60, sensors=6), "north")
    await asked.store(random_readings(30, sensors=3, start=START_US + 3600 * SECOND_US), "south")
    for regions, sensors in (
        (("north",), [4, 5, 6]),
        (("south",), [1, 2, 3]),
        (("east",), []),
        (("north", "south"), [1, 2, 3, 4, 5, 6]),
    ):
        found = await all_pages(asked, ReadingFilter(regions=regions), 2)
        assert found.sensor_id.tolist() == sensors
        found = await all_pages(asked, ReadingFilter(tuple(range(1, 9)), regions=regions), 2)
        assert found.sensor_id.tolist() == sensors


async def test_sites_are_the_sensors_that_are_there_today(asked: Answering) -> None:
    await asked.store(random_readings(60, sensors=6))
    await asked.put_sensors_at({"weir": [2, 5, 77]})
    assert (await all_pages(asked, ReadingFilter(site_ids=("weir",)), 1)).sensor_id.tolist() == [2, 5]


async def test_what_the_filter_leaves_of_the_newest_reading_is_returned_and_times_are_ignored(asked: Answering) -> None:
    await asked.store(random_readings(500))
    for parameters, without in (((2, 3), ()), ((), (4,)), ((1,), (2, 3, 4))):
        question = ReadingFilter(parameters=parameters, without_flags=without, start_us=9, end_us=3)
        assert same(await all_pages(asked, question, 5), expected(newest(asked.stored), question))


async def test_a_negative_page_size_is_refused_and_a_big_one_lowered(asked: Answering) -> None:
    await asked.store(random_readings(60))
    with pytest.raises(InvalidArgument, match="-1 is negative"):
        await asked.answer.get_latest(ReadingFilter(), Paging(-1), NOW)
    assert len((await asked.answer.get_latest(ReadingFilter(), Paging(2_000_000_000), NOW))[0]) == SENSOR_COUNT
