"""The live picture: the newest reading of each sensor as it changes, in bounded memory, whoever reads how slowly."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st
from waterquality.v1 import query_pb2

import query_svc.watch
import query_svc.watcher
from mesh.codec.columns import read_flagged
from mesh.errors import NotFound, Unavailable
from query_svc.filters import ReadingFilter
from query_svc.selection import Selection
from query_svc.watcher import Watcher
from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.query.answering import expected, random_readings, same
from tests.query.deployment import PATIENCE_S, FreshDatabase, flag
from tests.query.serving import Serving, error_of, serving
from water.parameter import PARAMETERS
from water.readings import Readings, concatenate

EVERYTHING = Selection(None, (), None, None, PARAMETERS, ())
QUICKLY = Duration(nanos=50_000_000)


@pytest.fixture
async def served(fresh_database: FreshDatabase) -> AsyncIterator[Serving]:
    async with serving(fresh_database) as made:
        yield made


async def watching(served: Serving, **filter_: Any) -> Any:
    """A call that is shown everything from now on."""
    request = query_pb2.WatchReadingsRequest(filter=query_pb2.ReadingFilter(**filter_), min_interval_duration=QUICKLY)
    call = served.query.WatchReadings(request)
    await call.initial_metadata()
    return call


async def next_frame(call: Any) -> Readings:
    async with asyncio.timeout(PATIENCE_S):
        return read_flagged((await call.read()).readings)


async def test_a_watcher_is_shown_what_its_filter_lets_through_and_nothing_else(served: Serving) -> None:
    await served.asked.put_sensors_at({"weir": [1, 2]})
    calls = [
        await watching(served),
        await watching(served, sensor_ids=[2, 3]),
        await watching(served, site_ids=["weir"], parameters=[1]),
        await watching(served, regions=["south"]),
        await watching(served, without_flags=[4]),
    ]
    failed = flag(a_reading(3, ph=17.0), 0x4444_4444)
    await served.show(concatenate([flag(readings_of((1, START_US, {"ph": 7.0}), (2, START_US, {"redox_mv": 5.0}))), failed]))
    await served.show(a_reading(4), "south")
    for call, wanted in zip(calls, ({1, 2, 3, 4}, {2, 3}, {1}, {4}, {1, 2, 4}), strict=True):
        found: set[int] = set()
        while found != wanted:
            frame = await next_frame(call)
            found |= set(frame.sensor_id.tolist())
            assert found <= wanted
        call.cancel()


async def test_an_older_reading_never_follows_a_newer_one(served: Serving) -> None:
    call = await watching(served)
    await served.show(a_reading(1, START_US, ph=7.0))
    assert (await next_frame(call)).measured_at_us.tolist() == [START_US]
    await served.show(a_reading(1, START_US - 1, ph=6.0))
    await served.show(a_reading(1, START_US + 1, ph=8.0))
    assert (await next_frame(call)).measured_at_us.tolist() == [START_US + 1]
    call.cancel()


async def test_frames_keep_their_distance_and_the_newest_wins_meanwhile(served: Serving) -> None:
    loop = asyncio.get_running_loop()
    call = await watching(served)
    started, shown = loop.time(), [-1]
    for at in range(60):
        await served.show(a_reading(1, START_US + at))
    while shown[-1] < START_US + 59:
        shown += (await next_frame(call)).measured_at_us.tolist()
    assert shown == sorted(set(shown))
    assert len(shown) - 1 <= (loop.time() - started) / 0.05 + 1
    call.cancel()


async def test_a_site_that_does_not_exist_and_one_watcher_too_many_are_refused(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_svc.watch, "MOST_WATCHERS", 1)
    nowhere = query_pb2.WatchReadingsRequest(filter=query_pb2.ReadingFilter(site_ids=["nowhere"]))
    assert isinstance(await error_of(served.query.WatchReadings(nowhere).read()), NotFound)
    call = await watching(served)
    error = await error_of(served.query.WatchReadings(query_pb2.WatchReadingsRequest()).read())
    assert error.reason == "TOO_MANY_WATCHERS"
    call.cancel()


async def test_a_stopping_server_ends_its_watchers(served: Serving) -> None:
    call = await watching(served)
    served.watch.close()
    assert (await error_of(call.read())).reason == "CLOSING"
    late = served.query.WatchReadings(query_pb2.WatchReadingsRequest())
    assert (await error_of(late.read())).reason == "CLOSING"


async def frame_now(watcher: Watcher) -> Readings:
    """What is ready without waiting."""
    try:
        async with asyncio.timeout(0.01):
            return await watcher.frame()
    except TimeoutError:
        return concatenate([])


steps = st.lists(st.one_of(st.none(), st.tuples(st.integers(1, 5), st.integers(0, 20))), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps)
async def test_frames_are_the_newest_of_what_came_since_the_last(steps: list[tuple[int, int] | None]) -> None:
    """Against the plain telling: None makes a frame, the others arrive."""
    watcher = Watcher(EVERYTHING)
    newest: dict[int, int] = {}
    changed: dict[int, int] = {}
    for step in [*steps, None]:
        if step is not None:
            sensor, at = step
            watcher.show("north", flag(a_reading(sensor, at)))
            if at > newest.get(sensor, -1):
                newest[sensor] = changed[sensor] = at
        elif changed:
            frame = await watcher.frame()
            assert dict(zip(frame.sensor_id.tolist(), frame.measured_at_us.tolist(), strict=True)) == changed
            assert frame.sensor_id.tolist() == sorted(changed)
            changed = {}


async def test_many_changes_come_in_several_frames_the_oldest_first_and_every_sensor_once() -> None:
    watcher = Watcher(EVERYTHING)
    readings = flag(some_readings(50_000, sensors=50_000))
    shuffled = np.random.default_rng(1).permutation(50_000)
    watcher.show("north", Readings(readings.sensor_id, START_US + shuffled, readings.values, readings.flags))
    frames = [await watcher.frame() for _ in range(3)]
    assert [len(frame) for frame in frames] == [20_000, 20_000, 10_000]
    assert all(earlier.measured_at_us.max() < later.measured_at_us.min() for earlier, later in pairwise(frames))
    assert len(np.unique(np.concatenate([frame.sensor_id for frame in frames]))) == 50_000
    assert not len(await frame_now(watcher))


async def test_a_watcher_that_never_takes_a_frame_keeps_a_bounded_number_of_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_svc.watcher, "MOST_SENSORS", 1000)
    monkeypatch.setattr(query_svc.watcher, "MOST_ARRIVED", 500)
    watcher = Watcher(EVERYTHING)
    for start in range(0, 20_000, 400):
        watcher.show("north", flag(some_readings(400, sensors=range(start + 1, start + 401), start=START_US + start)))
    frame = await watcher.frame()
    assert len(frame) <= 1400
    assert set(range(19_001, 20_001)) <= set(frame.sensor_id.tolist())


async def test_a_frame_holds_what_the_filter_leaves() -> None:
    readings = random_readings(12, sensors=12)
    selection = Selection(None, (), None, None, (PARAMETERS[0], PARAMETERS[4]), (4,))
    watcher = Watcher(selection)
    watcher.show("north", readings)
    assert same(await watcher.frame(), expected(readings, ReadingFilter(parameters=(1, 5), without_flags=(4,))))


async def test_a_closed_watcher_says_so_for_ever() -> None:
    watcher = Watcher(EVERYTHING)
    watcher.close()
    for _ in range(2):
        with pytest.raises(Unavailable, match="watch again"):
            await watcher.frame()
