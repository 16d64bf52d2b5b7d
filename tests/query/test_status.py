"""How far behind each stage is, and up to when everything can be read; heartbeats that stop are a problem."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from mesh import stages
from mesh.clock import SystemClock
from mesh.ports import Partition
from mesh.shards import Shards, open_engine, transaction
from mesh.stages import FORGOTTEN_AFTER_US, Heartbeat, Progress
from mesh.topics import ACCEPTED, BACKFILL, SCREENED
from query_svc.catalog_tables import create_tables
from query_svc.count import Count
from query_svc.fences import Fences
from query_svc.record import Record
from query_svc.recorded import Latest, Recorded
from query_svc.sight import Sight
from query_svc.status import PipelineStatus, StageStatus, Status
from tests.builders import a_reading
from tests.query.deployment import Deployment, FreshDatabase, deployed, flag, running, until


class ShiftedClock(SystemClock):
    """The machine's time, which a test may move forward."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us


@dataclass(slots=True)
class Looking:
    deployment: Deployment
    clock: ShiftedClock
    progresses: dict[str, Progress]
    heartbeat: Heartbeat
    status: PipelineStatus

    async def look(self) -> Status:
        """A fresh answer."""
        self.clock.ahead_us += 1_000_000
        return await self.status.status()

    async def stage(self, name: str) -> StageStatus:
        return next(stage for stage in (await self.look()).stages if stage.stage == name)


@pytest.fixture
async def looking(fresh_database: FreshDatabase) -> AsyncIterator[Looking]:
    async with deployed(fresh_database) as deployment:
        await create_tables(deployment.catalog)
        async with transaction(deployment.catalog) as connection:
            await stages.create(connection)
        clock = ShiftedClock()
        progresses = {stage: Progress(stage) for stage in ("accept", "count", "screen", "record", "sight")}
        heartbeat = Heartbeat(deployment.catalog, list(progresses.values()), "w1", clock)
        status = PipelineStatus(deployment.log, deployment.catalog, deployment.recorded, clock)
        yield Looking(deployment, clock, progresses, heartbeat, status)


async def test_a_pipeline_that_has_passed_everything_is_not_behind(looking: Looking) -> None:
    mesh, clock = looking.deployment, looking.clock
    await mesh.accept(a_reading(1))
    await mesh.put(flag(a_reading(1)))
    fences = Fences(mesh.log, mesh.catalog, mesh.recorded, clock)
    workers = (
        Record(mesh.log, mesh.shards, looking.progresses["record"]).run,
        Count(mesh.log, mesh.catalog, fences, clock, looking.progresses["count"]).run,
        Sight(mesh.log, mesh.catalog, looking.progresses["sight"]).run,
    )
    looking.progresses["screen"].started(Partition(ACCEPTED, 0), 1)
    async with running(*workers):

        async def nothing_waits() -> bool:
            await looking.heartbeat.beat()
            return all(stage.backlog_count == 0 for stage in (await looking.look()).stages)

        await until(nothing_waits)
    before_us = clock.now_us()
    found = await looking.look()
    assert [stage.stage for stage in found.stages] == ["accept", "count", "screen", "record", "sight"]
    assert [(stage.backlog_count, stage.lag_us) for stage in found.stages] == [(0, 0)] * 5
    assert found.readable_us is not None
    assert before_us <= found.readable_us <= clock.now_us()


async def test_what_waits_is_counted_and_its_age_is_that_of_the_oldest(looking: Looking) -> None:
    mesh = looking.deployment
    for number in (0, 0, 3):
        await mesh.accept(a_reading(1), number)
    await mesh.put(flag(a_reading(1)), Partition(SCREENED, 2))
    await looking.heartbeat.beat()
    looking.clock.ahead_us += 9_000_000
    found = {stage.stage: stage for stage in (await looking.look()).stages}
    assert {name: stage.backlog_count for name, stage in found.items()} == {
        "accept": 0,
        "count": 3,
        "screen": 3,
        "record": 1,
        "sight": 1,
    }
    assert all(10_000_000 <= found[name].lag_us < 60_000_000 for name in ("count", "screen", "record", "sight"))


async def test_readable_time_is_when_the_oldest_unrecorded_record_was_appended(looking: Looking) -> None:
    mesh = looking.deployment
    before_us = looking.clock.now_us()
    await mesh.accept(a_reading(1), 0)
    between_us = looking.clock.now_us()
    await mesh.accept(a_reading(1), 1)
    found = await looking.look()
    assert found.readable_us is not None
    assert before_us <= found.readable_us <= between_us


async def test_screen_is_judged_by_what_came_out_when_no_screener_was_heard(looking: Looking) -> None:
    mesh = looking.deployment
    for _ in range(3):
        await mesh.accept(a_reading(1))
    await mesh.put(flag(a_reading(1)))
    assert (await looking.stage("screen")).backlog_count == 2
    looking.progresses["screen"].started(Partition(ACCEPTED, 0), 3)
    await looking.heartbeat.beat()
    assert (await looking.stage("screen")).backlog_count == 0


async def test_a_stage_that_tells_nothing_or_no_more_has_a_problem(looking: Looking) -> None:
    assert (await looking.stage("screen")).problem == "no sign of life of any worker"
    looking.progresses["count"].problem = "Fault: a bad header"
    await looking.heartbeat.beat()
    assert (await looking.stage("screen")).problem == ""
    assert (await looking.stage("count")).problem == "Fault: a bad header"
    looking.clock.ahead_us += 6_000_000
    stale = await looking.stage("screen")
    assert stale.problem.startswith("no sign of life for ")
    assert "w1" in stale.problem
    assert stale.rate_per_s == 0
    await looking.heartbeat.beat()
    assert (await looking.stage("screen")).problem == ""


async def test_a_worker_of_another_name_shows_only_its_problem(looking: Looking) -> None:
    other = Progress("contexts")
    heartbeat = Heartbeat(looking.deployment.catalog, [other], "w1", looking.clock)
    await heartbeat.beat()
    assert "contexts" not in [stage.stage for stage in (await looking.look()).stages]
    other.problem = "Fault: cannot publish"
    await heartbeat.beat()
    assert (await looking.stage("contexts")).problem == "Fault: cannot publish"


async def test_a_worker_that_leaves_on_purpose_or_for_ten_minutes_is_not_missed(looking: Looking) -> None:
    other = Heartbeat(looking.deployment.catalog, [Progress("screen")], "w2", looking.clock)
    for goes in (other.leave, None):
        await other.beat()
        looking.clock.ahead_us += 6_000_000
        await looking.heartbeat.beat()
        assert "w2" in (await looking.stage("screen")).problem
        if goes:
            await goes()
        else:
            looking.clock.ahead_us += FORGOTTEN_AFTER_US
        await looking.heartbeat.beat()
        assert (await looking.stage("screen")).problem == ""


async def test_a_rate_is_that_of_the_last_minute(looking: Looking) -> None:
    accept = looking.progresses["accept"]
    await looking.heartbeat.beat()
    for _ in range(100):
        looking.clock.ahead_us += 1_000_000
        accept.handled_count += 50
        await looking.heartbeat.beat()
    assert (await looking.stage("accept")).rate_per_s == pytest.approx(50, rel=0.1)
    async with transaction(looking.deployment.catalog) as connection:
        (beat,) = [one for one in await stages.read(connection) if one.stage == "accept"]
    assert beat.handled_count == 5000


async def test_a_shard_that_is_away_is_named_and_nobody_claims_to_know_what_is_readable(looking: Looking) -> None:
    mesh = looking.deployment
    gone = open_engine("postgresql+psycopg://nobody@127.0.0.1:1/gone", 1)
    half = Shards(mesh.shards.owner, {0: mesh.shards.engines[0], 1: gone})
    await looking.heartbeat.beat()
    status = PipelineStatus(mesh.log, mesh.catalog, Recorded(half, mesh.log.log_id), looking.clock)
    found = await status.status()
    assert found.readable_us is None
    assert "gone" in found.stages[3].problem
    assert [stage.problem for stage in found.stages if stage.stage != "record"] == [""] * 4


async def test_many_callers_cause_one_look_a_second(looking: Looking) -> None:
    first = await looking.look()
    await looking.deployment.append(Partition(BACKFILL, 0), b"")
    assert await looking.status.status() is first
    assert (await looking.look()).stages != first.stages
    async with transaction(looking.deployment.catalog) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM stages"))).scalar_one() == 0


async def test_a_clock_that_is_put_back_keeps_no_answer_alive(looking: Looking) -> None:
    reads = 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        return reads

    latest = Latest(read, looking.clock)
    assert (await latest.fresh(), (await looking.stage("count")).backlog_count) == (1, 0)
    looking.clock.ahead_us -= 3_600_000_000
    await looking.deployment.accept(a_reading(1))
    assert await latest.recent() == 2
    count = next(stage for stage in (await looking.status.status()).stages if stage.stage == "count")
    assert count.backlog_count == 1
