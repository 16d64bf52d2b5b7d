"""Bulk frames: everything once, in order, resumable after any of them, and no further ahead than promised."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

import query_svc.answer
import query_svc.bulk
from mesh.errors import InvalidArgument, Unavailable
from query_svc.answer import Paging
from query_svc.filters import ReadingFilter
from tests.builders import SECOND_US, START_US
from tests.query.answering import NOW, SENSOR_COUNT, Answering, answering, expected, random_readings, same
from tests.query.deployment import PATIENCE_S, FreshDatabase
from water.readings import Readings, concatenate

ALL = ReadingFilter(sensor_ids=tuple(range(1, SENSOR_COUNT + 1)))


@pytest.fixture
async def asked(fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Answering]:
    """Frames and slices are small, so that a few hundred readings need many rounds."""
    monkeypatch.setattr(query_svc.bulk, "FRAME_READINGS", 16)
    monkeypatch.setattr(query_svc.bulk, "LEAST_SLICE", 20)
    monkeypatch.setattr(query_svc.bulk, "MOST_WAITING_READINGS", 0)
    async with answering(fresh_database) as made:
        yield made


async def frames(asked: Answering, question: ReadingFilter, token: str = "") -> list[tuple[Readings, str]]:
    found: list[tuple[Readings, str]] = []

    async def write(readings: Readings, resume_token: str) -> None:
        found.append((readings, resume_token))

    await asked.answer.stream_readings(question, token, NOW, write)
    return found


async def test_frames_hold_every_reading_once_in_order_over_both_shards(asked: Answering) -> None:
    await asked.store(random_readings(700))
    uneven = random_readings(300, seed=5, sensors=2, start=START_US + 3600 * SECOND_US)
    await asked.store(uneven)
    for question in (
        ALL,
        ReadingFilter(regions=("north",)),
        ReadingFilter(start_us=START_US, end_us=START_US + 3600 * SECOND_US),
    ):
        found = await frames(asked, question)
        assert max(len(readings) for readings, _ in found) <= 16
        end_us = question.end_us or 2**62
        wanted = asked.stored.take(np.flatnonzero(asked.stored.measured_at_us < end_us))
        assert same(concatenate([readings for readings, _ in found]), wanted)


async def test_a_stream_goes_on_after_any_frame(asked: Answering) -> None:
    await asked.store(random_readings(300))
    question = ReadingFilter(ALL.sensor_ids, parameters=(1, 2), without_flags=(4,))
    wanted = expected(asked.stored, question)
    had = 0
    for readings, token in await frames(asked, question):
        had += len(readings)
        rest = [frame for frame, _ in await frames(asked, question, token)]
        assert sum(map(len, rest)) == len(wanted) - had
        assert not rest or same(concatenate(rest), wanted.take(np.arange(had, len(wanted))))


async def test_a_token_of_another_stream_or_of_a_list_is_refused(asked: Answering) -> None:
    await asked.store(random_readings(30))
    (_, token), *_ = await frames(asked, ALL)
    with pytest.raises(InvalidArgument, match="resume_token"):
        await frames(asked, ReadingFilter((1,)), token)
    _, of_a_list = await asked.answer.list_readings(ALL, Paging(3), NOW)
    with pytest.raises(InvalidArgument, match="resume_token"):
        await frames(asked, ALL, of_a_list)


async def test_a_reader_that_never_reads_holds_back_the_database_and_no_connection(asked: Answering) -> None:
    await asked.store(random_readings(700))
    stuck, writing = asyncio.Event(), asyncio.Event()

    async def write(readings: Readings, resume_token: str) -> None:
        writing.set()
        await stuck.wait()

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        stream = tasks.create_task(asked.answer.stream_readings(ALL, "", NOW, write))
        await writing.wait()
        pools = [engine.pool for engine in asked.deployment.shards.engines.values()]
        while any(pool.checkedout() for pool in pools):  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not stream.done()
        stream.cancel()


async def test_a_writer_that_fails_ends_the_stream_with_its_own_error(asked: Answering) -> None:
    await asked.store(random_readings(700))

    async def write(readings: Readings, resume_token: str) -> None:
        raise Unavailable("the client is gone")

    with pytest.raises(Unavailable, match="the client is gone"):
        await asked.answer.stream_readings(ALL, "", NOW, write)


async def test_more_streams_than_allowed_are_told_to_try_again(asked: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_svc.answer, "MOST_STREAMS", 0)
    with pytest.raises(Unavailable) as caught:
        await frames(asked, ALL)
    assert caught.value.reason == "TOO_MANY_QUERIES"
