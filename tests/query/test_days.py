"""Days are made ahead and dropped when they are old and surely archived; no reading is lost on the way, however late it comes."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from mesh.errors import SetupError
from mesh.settings import read_settings
from mesh.shards import Shards, open_engine, slot_of, transaction
from query_svc.days_leaves import let_leave, prove_history, read_spans
from tests.builders import a_reading, readings_of
from tests.query.deployment import FreshDatabase, a_recorder, record_all, running, sensors_of_shard, until
from tests.query.keeping import FIRST_DAY, SLOTS, Keeping, at, keeping, leaves_of
from water.readings import Readings

SENSORS = range(1, 21)
SCREENED_0 = ("screened", 0)


@pytest.fixture
async def keep(fresh_database: FreshDatabase, tmp_path: Path) -> AsyncIterator[Keeping]:
    async with keeping(fresh_database, tmp_path) as keep:
        yield keep


def readings_at(time_us: int) -> Readings:
    """One of every sensor, of which each slot has some."""
    return readings_of(*((sensor, time_us, {"ph": 7.0}) for sensor in SENSORS))


async def test_a_slot_begins_with_history_and_a_week_of_days(keep: Keeping) -> None:
    assert await keep.all_leaves() == [leaves_of(FIRST_DAY, date(2026, 1, 8))] * SLOTS


async def test_every_reading_lies_in_the_leaf_of_its_utc_day(keep: Keeping) -> None:
    first_us = at(1, 0)
    await keep.mesh.put(readings_of((1, first_us - 1, {"ph": 7}), (2, first_us, {"ph": 7}), (3, at(1, 24) - 1, {"ph": 7})))
    await keep.mesh.put(readings_of((4, at(2, 0), {"ph": 7}), (5, at(-300), {"ph": 7})))
    await record_all(keep.mesh)
    assert [await keep.sensors_in(leaf) for leaf in ("history", "d20260101", "d20260102")] == [[1, 5], [2, 3], [4]]


async def test_days_are_made_ahead_for_every_slot_of_every_shard(keep: Keeping) -> None:
    keep.advance(3)
    await keep.days.look()
    assert await keep.all_leaves() == [leaves_of(FIRST_DAY, date(2026, 1, 11))] * SLOTS
    assert keep.progress.handled_count == 3 * SLOTS
    await keep.days.look()
    assert (keep.progress.handled_count, keep.progress.problem) == (3 * SLOTS, "")


async def test_after_weeks_away_no_day_is_left_out(keep: Keeping) -> None:
    keep.advance(30)
    await keep.days.look()
    assert await keep.leaves(0) == leaves_of(FIRST_DAY, date(2026, 2, 7))


async def test_a_day_is_dropped_when_it_is_old_and_held(keep: Keeping) -> None:
    offset = await keep.mesh.put(readings_at(at(1)))
    await record_all(keep.mesh)
    keep.advance(3.99)
    await keep.say({SCREENED_0: offset})
    await keep.days.look()
    assert await keep.sensors_in("d20260101") == list(SENSORS), "three days are not over yet"
    keep.advance(0.02)
    await keep.say({SCREENED_0: offset})
    await keep.days.look()
    assert await keep.tables(FIRST_DAY) == 0
    assert await keep.leaves(0) == leaves_of(date(2026, 1, 2), date(2026, 1, 12))
    assert keep.progress.problem == ""


async def test_without_the_word_of_the_archive_nothing_is_dropped_and_it_is_told(keep: Keeping) -> None:
    offset = await keep.mesh.put(readings_at(at(1)))
    await record_all(keep.mesh)
    keep.advance(10)
    await keep.days.look()
    await keep.say({SCREENED_0: offset}, frozenset({at(1, 0)}))
    await keep.days.look()
    assert await keep.leaves(0) == leaves_of(FIRST_DAY, date(2026, 1, 18))
    assert "2026-01-01 is to be dropped for days, but the archive does not say that it holds it" in keep.progress.problem


async def test_a_late_reading_keeps_its_day_until_it_is_held_too(keep: Keeping) -> None:
    """It came after what the archive had verified, and before the day left."""
    verified = await keep.mesh.put(readings_at(at(1)))
    late = await keep.mesh.put(a_reading(1, at(1, 13)))
    await record_all(keep.mesh)
    keep.advance(4)
    await keep.say({SCREENED_0: verified})
    await keep.days.look()
    assert await keep.leaves(0) == leaves_of(date(2026, 1, 2), date(2026, 1, 12)), "the day has left"
    assert await keep.tables(FIRST_DAY) == SLOTS, "and is not dropped"
    assert await keep.sensors_in("d20260101") == [1, *SENSORS]
    await keep.say({SCREENED_0: late - 1})
    await keep.days.look()
    assert await keep.tables(FIRST_DAY) == SLOTS
    await keep.say({SCREENED_0: late})
    await keep.days.look()
    assert await keep.tables(FIRST_DAY) == 0


async def test_a_reading_of_a_day_that_has_left_goes_into_history_and_stays(keep: Keeping) -> None:
    offset = await keep.mesh.put(readings_at(at(1)))
    await record_all(keep.mesh)
    keep.advance(4)
    await keep.say({SCREENED_0: offset})
    await keep.days.look()
    later = await keep.mesh.put(readings_of((1, at(1), {"ph": 7.5}), (2, at(1, 0), {"ph": 7.0}), (3, at(5), {"ph": 7.0})))
    await record_all(keep.mesh)
    keep.advance(1)
    await keep.say({SCREENED_0: later})
    await keep.days.look()
    assert await keep.sensors_in("history") == [1, 2]
    assert await keep.sensors_in("d20260105") == [3]
    assert await keep.leaves(1) == leaves_of(date(2026, 1, 3), date(2026, 1, 13))
    assert (await keep.mesh.ledger())["stored"] == len(SENSORS) + 3


async def test_readings_from_before_the_first_day_are_never_dropped(keep: Keeping) -> None:
    offset = await keep.mesh.put(readings_at(at(-300)))
    await record_all(keep.mesh)
    keep.advance(20)
    await keep.say({SCREENED_0: offset})
    await keep.days.look()
    assert await keep.sensors_in("history") == list(SENSORS)
    assert await keep.leaves(2) == leaves_of(date(2026, 1, 18), date(2026, 1, 28))


async def test_history_is_not_read_while_the_slot_is_locked(keep: Keeping) -> None:
    """PostgreSQL knows by its constraints that all of it is before the new end; else it would look, however much there is."""
    await keep.mesh.put(readings_at(at(-300)))
    await record_all(keep.mesh)
    for day in (FIRST_DAY, FIRST_DAY + timedelta(days=1)):
        async with transaction(keep.mesh.shards.engines[0]) as connection:
            await prove_history(connection, 0)
        async with transaction(keep.mesh.shards.engines[0]) as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            told: list[str] = []
            driver.add_notice_handler(lambda notice, told=told: told.append(str(notice.message_primary)))
            await connection.execute(text("SET LOCAL client_min_messages = debug1"))
            await let_leave(connection, 0, day)
        assert [line for line in told if "sensor_readings_s0_history" in line] == [
            'partition constraint for table "sensor_readings_s0_history" is implied by existing constraints'
        ]


async def test_a_slot_in_use_is_left_for_later_and_keeps_no_other_from_it(keep: Keeping) -> None:
    keep.advance(4)
    await keep.say({})
    async with transaction(keep.mesh.shards.engines[0]) as reader:
        await reader.execute(text("SELECT count(*) FROM sensor_readings_s0"))
        await keep.days.look()
    assert (await keep.leaves(0))[0] == "d20260101"
    assert [(await keep.leaves(slot))[0] for slot in (1, 2, 3)] == ["d20260102"] * 3
    await keep.days.look()
    assert (await keep.leaves(0))[0] == "d20260102"


async def test_recorders_and_queries_go_on_while_days_are_made(keep: Keeping) -> None:
    """Only SHARE UPDATE EXCLUSIVE is taken of what they use."""
    keep.advance(2)
    async with transaction(keep.mesh.shards.engines[0]) as writer:
        for slot in keep.mesh.shards.slots_of_shard(0):
            await writer.execute(text(f"LOCK TABLE sensor_readings_s{slot} IN ROW EXCLUSIVE MODE"))
        await keep.days.look()
    assert await keep.all_leaves() == [leaves_of(FIRST_DAY, date(2026, 1, 10))] * SLOTS


async def test_two_workers_at_once_do_what_one_does(keep: Keeping) -> None:
    offset = await keep.mesh.put(readings_at(at(1)))
    await record_all(keep.mesh)
    keep.advance(6)
    await keep.say({SCREENED_0: offset})
    await asyncio.gather(keep.days.look(), keep.days.look(), keep.days.look())
    await keep.days.look()
    assert await keep.all_leaves() == [leaves_of(date(2026, 1, 4), date(2026, 1, 14))] * SLOTS
    assert await keep.mesh.rows("SELECT * FROM days_leaving") == []
    assert await keep.tables(FIRST_DAY) == 0


async def test_days_that_left_in_another_log_are_kept(keep: Keeping) -> None:
    await keep.mesh.put(readings_at(at(1)))
    await record_all(keep.mesh)
    await keep.mesh.rows("WITH moved AS (UPDATE positions SET log_id = 'another' RETURNING 1) SELECT count(*) FROM moved")
    keep.advance(4)
    await keep.say({SCREENED_0: 1_000})
    await keep.days.look()
    assert await keep.tables(FIRST_DAY) == SLOTS


async def test_a_slot_that_is_to_be_moved_keeps_its_days(keep: Keeping) -> None:
    async with transaction(keep.mesh.catalog) as connection:
        await connection.execute(text("CREATE TABLE reshardings (number int, ended_at timestamptz)"))
        await connection.execute(text("CREATE TABLE slot_moves (number int, slot int)"))
        await connection.execute(text("INSERT INTO reshardings VALUES (1, now()), (2, NULL)"))
        await connection.execute(text("INSERT INTO slot_moves VALUES (1, 0), (2, 3)"))
    keep.advance(4)
    await keep.say({})
    await keep.days.look()
    assert [(await keep.leaves(slot))[0] for slot in range(SLOTS)] == ["d20260102"] * 3 + ["d20260101"]


async def test_when_the_days_have_run_out_the_recorder_waits_for_them(keep: Keeping) -> None:
    """Whoever makes them was away for a week: one shard has today, the other has not."""
    keep.advance(8)
    here, there = (sensors_of_shard(keep.mesh.shards, shard, 1)[0] for shard in (0, 1))
    for slot in keep.mesh.shards.slots_of_shard(0):
        async with transaction(keep.mesh.shards.engines[0]) as connection:
            await connection.execute(
                text(
                    f"CREATE TABLE sensor_readings_s{slot}_d20260109 PARTITION OF sensor_readings_s{slot} "
                    "FOR VALUES FROM ('2026-01-09 00:00+00') TO ('2026-01-10 00:00+00')"
                )
            )
    await keep.mesh.put(readings_of((here, at(9), {"ph": 7.0}), (there, at(9), {"ph": 7.0})))

    async def one_is_stored() -> bool:
        return await keep.sensors_in("d20260109") == [here]

    async def both_are_stored() -> bool:
        return await keep.sensors_in("d20260109") == sorted([here, there])

    async with running(a_recorder(keep.mesh).run):
        await until(one_is_stored)
        await keep.days.look()
        await until(both_are_stored)


def test_no_reading_is_accepted_for_a_day_that_has_no_table_yet() -> None:
    assert read_settings(None, {"keep_days": 1, "future_tolerance_s": 432_000}, {}).keep_days == 1
    assert read_settings(None, {"future_tolerance_s": 31_536_000}, {}).keep_days == 0
    with pytest.raises(SetupError, match="future_tolerance_s = 432001: at most 432000 together with keep_days"):
        read_settings(None, {"keep_days": 1, "future_tolerance_s": 432_001}, {})


async def test_a_shard_that_is_away_keeps_no_other_from_its_days(keep: Keeping) -> None:
    away = open_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", 1)
    shards = keep.mesh.shards
    keep.mesh.shards = Shards(shards.owner, {0: shards.engines[0], 1: away})
    keep.advance(2)
    await keep.days.look()
    keep.mesh.shards = shards
    await away.dispose()
    assert keep.progress.problem.startswith("shard 1: database none is away")
    assert [len(leaves) for leaves in await keep.all_leaves()] == [11, 11, 9, 9]


async def test_without_days_to_keep_nothing_is_done(keep: Keeping) -> None:
    async with transaction(keep.mesh.catalog) as connection:
        await connection.execute(text("UPDATE deployment SET keep_days = 0"))
    keep.advance(40)
    await keep.say({})
    await keep.days.look()
    assert await keep.leaves(0) == leaves_of(FIRST_DAY, date(2026, 1, 8))


async def test_the_time_zone_of_a_session_changes_no_day(keep: Keeping) -> None:
    engine = keep.mesh.shards.engines[0]
    async with transaction(engine) as connection:
        await connection.execute(text("SET LOCAL timezone = 'Asia/Tokyo'"))
        bounds = await connection.execute(text(_BOUNDS))
        assert bounds.scalar_one() == "FOR VALUES FROM ('2026-01-01 09:00:00+09') TO ('2026-01-02 09:00:00+09')"
        assert (await read_spans(connection))[0] is not None


async def test_a_query_of_a_day_looks_at_the_leaf_of_that_day_alone(keep: Keeping) -> None:
    sensor = sensors_of_shard(keep.mesh.shards, 0, 1)[0]
    plan = await keep.mesh.rows(
        f"EXPLAIN SELECT * FROM sensor_readings WHERE sensor_id = {sensor} AND timestamp >= '2026-01-03 00:00+00' "
        "AND timestamp < '2026-01-04 00:00+00'"
    )
    leaves = {found for (line,) in plan for found in re.findall(r"sensor_readings_s\d+_(?:d\d+|history)(?= )", line)}
    slot = int(slot_of(np.array([sensor]), SLOTS)[0])
    assert leaves == {f"sensor_readings_s{slot}_d20260103"}


_BOUNDS = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'sensor_readings_s0_d20260101'"
