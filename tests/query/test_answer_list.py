"""Rows in pages: exact, in order, whole, and unmoved by readings that arrive meanwhile."""

from collections.abc import AsyncIterator
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from mesh.errors import InvalidArgument, NotFound, Unavailable
from mesh.shards import Shards, open_engine, slot_of, transaction
from query_svc.aggregate import AggregateQuestion
from query_svc.answer import Answer, Paging
from query_svc.filters import ReadingFilter
from tests.builders import SECOND_US, START_US, a_reading, readings_of
from tests.query.answering import NOW, SENSOR_COUNT, Answering, answering, expected, random_readings, same
from tests.query.deployment import FreshDatabase, flag, sensors_of_shard
from water.readings import Readings, concatenate

HOUR_US = 3600 * SECOND_US
ALL = ReadingFilter(sensor_ids=tuple(range(1, SENSOR_COUNT + 1)))


@pytest.fixture
async def asked(fresh_database: FreshDatabase) -> AsyncIterator[Answering]:
    async with answering(fresh_database) as made:
        yield made


async def all_pages(asked: Answering, question: ReadingFilter, size: int) -> tuple[Readings, list[str], int]:
    """Readings, regions and the number of pages."""
    parts, token, number = [], "", 0
    while True:
        found, token = await asked.answer.list_readings(question, Paging(size, token), NOW)
        parts.append(found)
        number += 1
        if not token:
            whole = concatenate([part.readings for part in parts])
            return whole, [region.decode() for part in parts for region in part.regions.tolist()], number
        assert len(found) == size


async def test_pages_of_any_size_hold_every_reading_once_bit_for_bit_and_in_order(asked: Answering) -> None:
    await asked.store(random_readings(600))
    for size, pages in ((1000, 1), (600, 1), (599, 2), (100, 6), (7, 86)):
        found, regions, number = await all_pages(asked, ALL, size)
        assert same(found, asked.stored)
        assert regions == ["north"] * 600
        assert number == pages


async def test_parameters_and_flags_leave_out_values_and_readings_of_which_nothing_is_left(asked: Answering) -> None:
    await asked.store(random_readings(400))
    for parameters, without in (((1,), ()), ((), (4,)), ((1, 5), (2, 3)), ((6,), (1, 2, 3))):
        question = ReadingFilter(ALL.sensor_ids, parameters=parameters, without_flags=without)
        found, _, _ = await all_pages(asked, question, 50)
        wanted = expected(asked.stored, question)
        assert same(found, wanted)
        assert 0 < len(wanted) <= 400


async def test_the_time_range_holds_its_start_and_not_its_end(asked: Answering) -> None:
    await asked.store(flag(readings_of(*((1, START_US + n, {"ph": 7.0}) for n in range(5)))))
    question = ReadingFilter((1,), start_us=START_US + 1, end_us=START_US + 3)
    found, _, _ = await all_pages(asked, question, 10)
    assert (found.measured_at_us - START_US).tolist() == [1, 2]


async def test_all_conditions_hold_together(asked: Answering) -> None:
    await asked.store(random_readings(60), "north")
    await asked.store(random_readings(60, start=START_US + HOUR_US), "south")
    await asked.put_sensors_at({"weir": [1, 2, 3, 99], "outfall": [4]})
    question = ReadingFilter((2, 3, 4), ("weir",), ("south",))
    found, regions, _ = await all_pages(asked, question, 3)
    assert set(found.sensor_id.tolist()) == {2, 3}
    assert found.measured_at_us.min() >= START_US + HOUR_US
    assert set(regions) == {"south"}
    everything_at_the_weir, _, _ = await all_pages(asked, ReadingFilter(site_ids=("weir",)), 1000)
    assert set(everything_at_the_weir.sensor_id.tolist()) == {1, 2, 3}
    with pytest.raises(NotFound, match="nowhere"):
        await asked.answer.list_readings(ReadingFilter(site_ids=("weir", "nowhere")), Paging(), NOW)


async def test_without_sensors_all_of_an_hour_can_be_asked_for(asked: Answering) -> None:
    await asked.store(random_readings(300))
    question = ReadingFilter(start_us=START_US, end_us=START_US + 60 * SECOND_US)
    found, _, _ = await all_pages(asked, question, 13)
    within = np.flatnonzero(asked.stored.measured_at_us < START_US + 60 * SECOND_US)
    assert same(found, asked.stored.take(within))


async def test_a_site_without_sensors_has_no_readings(asked: Answering) -> None:
    await asked.store(random_readings(10))
    await asked.put_sensors_at({"new": []})
    assert (await all_pages(asked, ReadingFilter(site_ids=("new",)), 10))[2] == 1


async def test_one_sensor_touches_exactly_one_shard(asked: Answering) -> None:
    (here,) = sensors_of_shard(asked.deployment.shards, 0, 1)
    await asked.store(flag(a_reading(here)))
    shards = asked.deployment.shards
    gone = open_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing", 1)
    half = Answer(Shards(shards.owner, {0: shards.engines[0], 1: gone}), asked.places, asked.deployment.recorded, "log")
    question = ReadingFilter((here,), start_us=START_US - 1)
    assert len((await half.list_readings(question, Paging(), NOW))[0]) == 1
    assert len((await half.get_latest(question, Paging(), NOW))[0]) == 1
    assert len((await half.aggregate(question, AggregateQuestion(), Paging(), NOW))[0]) == 1
    (there,) = sensors_of_shard(shards, 1, 1)
    with pytest.raises(Unavailable, match="away"):
        await half.list_readings(ReadingFilter((here, there)), Paging(), NOW)


async def test_a_token_of_another_question_is_refused(asked: Answering) -> None:
    await asked.store(random_readings(60))
    _, token = await asked.answer.list_readings(ALL, Paging(5), NOW)
    same_but_reordered = ReadingFilter(tuple(reversed(ALL.sensor_ids)))
    await asked.answer.list_readings(same_but_reordered, Paging(7, token), NOW)
    for other in (
        ReadingFilter((1,)),
        ReadingFilter(ALL.sensor_ids, start_us=1),
        ReadingFilter(ALL.sensor_ids, parameters=(1,)),
        ReadingFilter(ALL.sensor_ids, without_flags=(4,)),
        ReadingFilter(ALL.sensor_ids, regions=("north",)),
    ):
        with pytest.raises(InvalidArgument, match="page_token") as caught:
            await asked.answer.list_readings(other, Paging(5, token), NOW)
        assert caught.value.reason == "QUESTION_CHANGED"
        assert "page_token" in caught.value.fields
    with pytest.raises(InvalidArgument, match="not a latest token"):
        await asked.answer.get_latest(ALL, Paging(5, token), NOW)
    with pytest.raises(InvalidArgument, match="not a readings token"):
        await asked.answer.list_readings(ALL, Paging(5, "garbage"), NOW)


async def test_a_slot_that_was_moved_away_is_an_error_and_never_no_readings(asked: Answering) -> None:
    (here,) = sensors_of_shard(asked.deployment.shards, 0, 1)
    await asked.store(flag(a_reading(here)))
    slot = int(slot_of(np.array([here]), 8)[0])
    async with transaction(asked.deployment.shards.engines[0]) as connection:
        await connection.execute(text(f"DELETE FROM owned_slots WHERE slot = {slot}"))
    with pytest.raises(Unavailable) as caught:
        await asked.answer.list_readings(ReadingFilter((here,)), Paging(), NOW)
    assert caught.value.reason == "SHARD_MOVED"


PLACES = st.tuples(st.integers(1, 6), st.integers(0, 40))
NEW_SENSORS = count(1000, 10)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(PLACES, min_size=1, max_size=60), st.lists(st.sets(PLACES, max_size=10), max_size=4), st.integers(1, 9))
async def test_pages_are_stable_while_data_arrives(
    asked: Answering, first: set[tuple[int, int]], later: list[set[tuple[int, int]]], size: int
) -> None:
    """What was there at the start comes exactly once; what comes meanwhile at most once; all in order."""
    base = next(NEW_SENSORS)
    await asked.store(at_places(base, first))
    had, arriving = set(first), list(later)
    question = ReadingFilter(tuple(range(base + 1, base + 7)))
    found, token = await asked.answer.list_readings(question, Paging(size), NOW)
    pages = [found]
    while token:
        new = (arriving.pop() if arriving else set()) - had
        if new:
            await asked.store(at_places(base, new))
            had |= new
        found, token = await asked.answer.list_readings(question, Paging(size, token), NOW)
        pages.append(found)
    readings = concatenate([page.readings for page in pages])
    times = (readings.measured_at_us - START_US) // SECOND_US
    keys = list(zip((readings.sensor_id - base).tolist(), times.tolist(), strict=True))
    assert keys == sorted(set(keys))
    assert first <= set(keys) <= had


def at_places(base: int, keys: set[tuple[int, int]]) -> Readings:
    return flag(readings_of(*((base + sensor, START_US + at * SECOND_US, {"ph": 7.0}) for sensor, at in sorted(keys))))
