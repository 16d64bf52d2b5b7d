"""The board: newest per sensor and region, at most four times a second, bounded, lossy, and never in the way."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_svc import board_updates
from ingest_svc.board_updates import BoardUpdates
from mesh.clock import ManualClock, SystemClock
from mesh.codec.log_records import Screened, write_screened
from mesh.codec.stamp import Stamp, write_stamp
from mesh.codec.tasks import read_board
from mesh.ports import Partition, Record, Stored
from mesh.stages import Progress
from mesh.topics import SCREENED, SCREENED_BACKFILL
from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.conftest import FreshDatabase
from tests.ingest.publishing import Mesh, a_mesh, a_task, flag, ids, publisher, running, until
from water.newest import cut, newest
from water.readings import Readings, concatenate


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Mesh]:
    async with a_mesh(fresh_database) as made:
        yield made


async def shown(mesh: Mesh) -> dict[str, list[Readings]]:
    """All board tasks that are kept, by region."""
    found: dict[str, list[Readings]] = {}
    for region, readings in map(read_board, await mesh.medium()):
        found.setdefault(region, []).append(readings)
    return found


def a_record(readings: Readings, region: str = "north", at_us: int = START_US) -> Stored:
    """As it stands in `screened`."""
    value = write_screened(Screened("g-1", 0, region, START_US, flag(readings), 0, -1))
    return Stored(0, Record(value, write_stamp(Stamp("g-1", START_US, len(readings)))), at_us)


async def test_the_newest_reading_of_each_sensor_of_the_live_lane_is_shown_by_region_with_its_flags(mesh: Mesh) -> None:
    await mesh.put(readings=flag(readings_of((2, 5, {"ph": 7.0}), (1, 9, {"ph": 6.0}), (2, 4, {"ph": 5.0}))))
    await mesh.put(readings=a_reading(9, 1), region="south", partition=Partition(SCREENED, 2))
    await mesh.put(readings=a_reading(8, 1), partition=Partition(SCREENED_BACKFILL, 0))
    await mesh.put(value=b"\xff\xff")

    async def both() -> bool:
        return set(await shown(mesh)) == {"north", "south"} and await mesh.passed()

    async with running(publisher(mesh).run):
        await until(both)
        found = await shown(mesh)
    north = newest(concatenate(found["north"]))
    assert north.sensor_id.tolist() == [1, 2]
    assert north.measured_at_us.tolist() == [9, 5]
    assert north.flags is not None
    assert north.flags.tolist() == [0x1111_1111] * 2
    assert [readings.sensor_id.tolist() for readings in found["south"]] == [[9]]


async def test_updates_come_at_most_four_times_a_second_and_the_last_one_without_another_record(mesh: Mesh) -> None:
    loop, last = asyncio.get_running_loop(), START_US + 199

    async def has_last() -> bool:
        return any(last in readings.measured_at_us for readings in (await shown(mesh)).get("north", []))

    async with running(publisher(mesh).run):
        began = loop.time()
        for at in range(200):
            await mesh.put(readings=a_reading(1, START_US + at))
        await until(has_last)
        took_s = loop.time() - began
    assert len((await shown(mesh))["north"]) <= took_s * 4 + 2


async def test_a_record_that_is_older_than_five_seconds_is_not_shown(mesh: Mesh) -> None:
    clock = ManualClock(START_US)
    board = BoardUpdates(mesh.exchange, clock)
    clock.advance(6)
    board.show(a_record(a_reading(1)))
    board.show(a_record(a_reading(2), at_us=START_US + 2_000_000))
    await board.publish()
    assert [readings.sensor_id.tolist() for readings in (await shown(mesh))["north"]] == [[2]]


async def test_what_the_exchange_does_not_take_is_told_and_dropped_and_conditions_are_not_held_up(mesh: Mesh) -> None:
    clock = ManualClock(START_US)
    board = BoardUpdates(mesh.exchange, clock)
    async with mesh.without_exchange():
        board.show(a_record(a_reading(1)))
        await board.publish()
        assert board.problem.startswith("1 board updates dropped: ")
    board.show(a_record(a_reading(2)))
    await board.publish()
    assert not board.problem
    assert [readings.sensor_id.tolist() for readings in (await shown(mesh))["north"]] == [[2]]


async def test_a_board_that_cannot_be_offered_holds_neither_conditions_nor_the_position(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_updates, "PUBLISH_S", 0.0)
    progress = Progress("publish")

    async def says_so() -> bool:
        return "board updates dropped: no answer within" in progress.problem

    async with running(publisher(mesh, progress).run):
        await mesh.put(a_task(1))
        await until(says_so)
        await until(mesh.passed)
    assert ids(await mesh.high()) == ["c-1"]


async def test_a_big_update_comes_in_parts_those_measured_first_and_every_sensor_once(mesh: Mesh) -> None:
    board = BoardUpdates(mesh.exchange, SystemClock())
    readings = some_readings(45_000, sensors=45_000)
    times = START_US + np.random.default_rng(1).permutation(45_000)
    for part in range(0, 45_000, 5_000):
        rows = slice(part, part + 5_000)
        some = Readings(readings.sensor_id[rows], times[rows], readings.values[:, rows])
        board.show(a_record(some, at_us=SystemClock().now_us()))
    for _ in range(3):
        await board.publish()
    parts = (await shown(mesh))["north"]
    assert [len(part) for part in parts] == [20_000, 20_000, 5_000]
    assert parts[0].measured_at_us.max() < parts[1].measured_at_us.min()
    assert len(np.unique(np.concatenate([part.sensor_id for part in parts]))) == 45_000


async def test_what_waits_is_bounded_and_the_oldest_go_first(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_updates, "MOST_SENSORS", 1_000)
    monkeypatch.setattr(board_updates, "MOST_READINGS", 400)
    monkeypatch.setattr(board_updates, "MOST_ARRIVED_BYTES", 200_000)
    board = BoardUpdates(mesh.exchange, ManualClock(START_US))
    for first in range(1, 20_001, 500):
        at_us = START_US + first // 10_000
        board.show(a_record(some_readings(500, range(first, first + 500), start=at_us), f"r{first // 500 % 2}"))
    for _ in range(4):
        await board.publish()
    parts = [readings for found in (await shown(mesh)).values() for readings in found]
    assert max(map(len, parts)) == 400
    assert sum(map(len, parts)) == 1_000
    assert min(int(part.sensor_id.min()) for part in parts) > 17_000


rows = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), max_size=30)


@settings(deadline=None)
@given(rows, st.integers(0, 12))
def test_newest_and_cut_are_as_plainly_told(rows: list[tuple[int, int]], most: int) -> None:
    readings = readings_of(*[(sensor, at, {"ph": float(place)}) for place, (sensor, at) in enumerate(rows)])
    wanted: dict[int, tuple[int, int]] = {}
    for place, (sensor, at) in enumerate(rows):
        wanted[sensor] = max(wanted.get(sensor, (-1, -1)), (at, place))
    found = newest(readings)
    assert found.sensor_id.tolist() == sorted(wanted)
    assert [(int(at), int(ph)) for at, ph in zip(found.measured_at_us, found.values[0], strict=True)] == [
        wanted[sensor] for sensor in sorted(wanted)
    ]
    first, rest = cut(readings, most)
    assert len(first) == min(most, len(rows))
    assert sorted([*first.values[0], *rest.values[0]]) == list(range(len(rows)))
    assert not len(rest) or not len(first) or first.measured_at_us.max() <= rest.measured_at_us.min()
