"""The arrow `screen` and conditions: rules and catalog from the Log, tasks in the screened record, the same after any crash."""

import asyncio
import hashlib
import random
from collections.abc import Sequence

import numpy as np
import pytest

from ingest_svc.lane import THREAD_FROM_READINGS
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_log import PostgresLog
from mesh.clock import ManualClock
from mesh.codec.catalog import write_catalog
from mesh.codec.log_records import ContextChange, ContextKind
from mesh.codec.rules import write_rules_context
from mesh.codec.tasks import Task
from mesh.errors import Fault
from mesh.ports import Partition
from mesh.topics import ACCEPTED, BACKFILL
from tests.builders import START_US, a_reading, some_readings
from tests.ingest.screening import (
    FIRST,
    HOUR_US,
    accept,
    at_work,
    change,
    folded_values,
    screened_records,
    screened_up_to,
    screened_values,
    screener,
    some_accepted,
)
from water.condition import Change, Kind
from water.rules import Rule
from water.sites import Sensor, Site

MINUTE = 60_000_000
R, C = Change.RAISED, Change.CLEARED
_PH_HIGH = Rule("ph-high", 1, upper_limit=8.5)


async def put(objects: DirectoryObjects, kind: ContextKind, version: int, content: bytes) -> ContextChange:
    """A context whose object is there."""
    path = f"contexts/{kind.name.lower()}/{version}"
    await objects.put(path, content)
    return ContextChange(kind, version, path, hashlib.sha256(content).hexdigest())


async def rules(objects: DirectoryObjects, version: int, *some: Rule) -> ContextChange:
    """A rules context."""
    return await put(objects, ContextKind.RULES, version, write_rules_context(some))


async def catalog(objects: DirectoryObjects, version: int, sites: Sequence[Site], *sensors: Sensor) -> ContextChange:
    """A catalog context."""
    return await put(objects, ContextKind.CATALOG, version, write_catalog(sites, sensors))


async def tasks(log: PostgresLog, partition: Partition = FIRST) -> list[Task]:
    """All that screening told, in order; the header says how many, or is absent."""
    found = list[Task]()
    for screened, headers in await screened_records(log, partition):
        assert headers.get("conditions") == (str(len(screened.conditions)) if screened.conditions else None)
        found += screened.conditions
    return found


async def test_a_condition_travels_in_the_record_of_the_readings_that_showed_it(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log = postgres_log
    await accept(log, a_reading(ph=9.0))
    await change(log, await rules(objects, 1, _PH_HIGH))
    await change(log, await catalog(objects, 1, [Site("mill", source_type=1)], Sensor(1, "mill")))
    await accept(log, a_reading(1, START_US + MINUTE, ph=9.0))
    await accept(log, a_reading(1, START_US + 2 * MINUTE, ph=9.0))
    last = await accept(log, a_reading(1, START_US + 3 * MINUTE, ph=7.0))
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, last)
    raised, cleared = await tasks(log)
    assert (raised.gateway_id, raised.region, raised.received_at_us, raised.historical) == ("g-1", "north", HOUR_US, False)
    assert (raised.condition.condition_id, raised.condition.site_id, raised.condition.kind) == (
        "limit/ph-high/1",
        "mill",
        Kind.LIMIT,
    )
    assert [one.condition.change for one in (raised, cleared)] == [R, C]
    assert cleared.condition.began_us == raised.condition.began_us == START_US + MINUTE
    counts = [headers.get("conditions") for _, headers in await screened_records(log)]
    assert counts == [None, None, None, "1", None, "1"]


async def test_what_backfill_shows_is_history(postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock) -> None:
    log, partition = postgres_log, Partition(BACKFILL, 0)
    await change(log, await rules(objects, 1, _PH_HIGH), partition)
    last = await accept(log, a_reading(ph=9.0), partition)
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, last, partition)
    assert [task.historical for task in await tasks(log, partition)] == [True]


async def test_rules_and_catalog_change_at_their_place_in_the_log_and_survive_a_restart(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log = postgres_log
    sites = [Site("mill", source_type=1), Site("lake", source_type=3)]
    municipal = Rule("municipal", 1, upper_limit=8.5, source_type=1)
    await change(log, await rules(objects, 1, municipal))
    await change(log, await catalog(objects, 1, sites, Sensor(1, "mill"), Sensor(2, "lake")))
    for sensor in (1, 2):
        await accept(log, a_reading(sensor, START_US, ph=9.0))
    async with at_work(screener(log, objects, clock, checkpoint_records=4)):
        await screened_up_to(log, 3)
    await accept(log, a_reading(1, START_US + MINUTE, ph=9.0))
    await change(log, await catalog(objects, 2, sites, Sensor(1, "mill", state=2), Sensor(2, "mill")))
    for sensor in (1, 2):
        await accept(log, a_reading(sensor, START_US + 2 * MINUTE, ph=9.0))
    await change(log, await rules(objects, 2))
    last = await accept(log, a_reading(2, START_US + 3 * MINUTE, ph=9.0))
    async with at_work(screener(log, objects, clock)):
        await screened_up_to(log, last)
    told = [(task.condition.sensor_id, task.condition.change, task.condition.ended_us) for task in await tasks(log)]
    assert told == [(1, R, None), (1, C, START_US + MINUTE), (2, R, None), (2, C, START_US + 2 * MINUTE)]
    assert await screened_values(log) == await folded_values(log, objects)


@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_any_moment_it_tells_the_same_conditions(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock, seed: int
) -> None:
    log, chance = postgres_log, random.Random(seed)
    some = (
        Rule("ph", 1, lower_limit=6.5, upper_limit=8.5, deadband=0.1, on_delay_s=300, off_delay_s=600),
        Rule("ntu", 2, upper_limit=4.0),
        Rule("do", 4, lower_limit=5.0, off_delay_s=300),
    )
    await change(log, await rules(objects, 1, *some))
    await some_accepted(log, 30, seed=seed)
    await change(log, await rules(objects, 2, *some[1:]))
    last = await some_accepted(log, 30, seed=seed + 100)
    for _ in range(10):
        async with at_work(screener(log, objects, clock, checkpoint_records=7)):
            for _ in range(chance.choice((0, 20, 200, 1000))):
                await asyncio.sleep(0)
    async with at_work(screener(log, objects, clock, checkpoint_records=7)):
        await screened_up_to(log, last)
    assert await screened_values(log) == await folded_values(log, objects)
    assert len(await tasks(log)) > 10


async def test_a_large_batch_is_judged_as_small_ones_are(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock
) -> None:
    log, readings = postgres_log, some_readings(THREAD_FROM_READINGS + 500, 5)
    readings.values[0, 700:1900] = 9.1
    told = []
    for number, size in ((0, len(readings)), (1, 100)):
        partition = Partition(ACCEPTED, number)
        await change(log, await rules(objects, 1, _PH_HIGH), partition)
        last = 0
        for start in range(0, len(readings), size):
            last = await accept(log, readings.take(np.arange(start, min(start + size, len(readings)))), partition)
        async with at_work(screener(log, objects, clock)):
            await screened_up_to(log, last, partition)
        told.append([task.condition for task in await tasks(log, partition)])
    assert len(told[0]) == 10
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "not a readable RulesContext"),
        (write_rules_context([Rule("odd", 99, upper_limit=1.0)]), "rule 'odd' is for parameter 99: update this program"),
    ],
)
async def test_rules_that_cannot_be_judged_stop_the_worker_and_say_why(
    postgres_log: PostgresLog, objects: DirectoryObjects, clock: ManualClock, content: bytes, problem: str
) -> None:
    await change(postgres_log, await put(objects, ContextKind.RULES, 3, content))
    with pytest.raises(Fault, match=f"RULES context version 3, object contexts/rules/3: .*{problem}"):
        await screener(postgres_log, objects, clock).run()
