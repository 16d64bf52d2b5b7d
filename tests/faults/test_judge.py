"""The judge of the fault suite finds what is lost, doubled or wrong: each is done to a system on purpose."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import psycopg
import pytest
import pytest_asyncio

from mesh.clock import SystemClock
from tests.faults.asked import put_rule_in_force
from tests.faults.course import TICK_US, Course
from tests.faults.embedded import EmbeddedDeployment
from tests.faults.judge import Verdict, judge
from tests.faults.load import Load, running_load
from tests.flows.process import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]


@dataclass(slots=True)
class Judged:
    """A run that was disturbed by nothing."""

    deployment: EmbeddedDeployment
    course: Course
    load: Load

    async def verdict(self) -> Verdict:
        return await judge(self.deployment, self.course, self.load)

    async def change(self, shard: int, statement: str) -> int:
        """Rows changed in a shard past the mesh; triggers and counts of the mesh do not know."""
        async with await psycopg.AsyncConnection.connect(self.deployment.shard_dsns[shard]) as connection:
            return (await connection.execute(statement.encode())).rowcount


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judged() -> AsyncIterator[Judged]:
    start_us = SystemClock().now_us() // TICK_US * TICK_US - 86_400_000_000
    async with EmbeddedDeployment() as deployment:
        course = Course(3, 0, start_us, gateways=2)
        await put_rule_in_force(deployment, course)
        async with running_load(course, deployment.ingest) as load:
            await eventually(lambda: load.sent.count > 3_500, 60, lambda: f"only {load.sent.count} sent")
        yield Judged(deployment, course, load)


async def test_an_undisturbed_run_is_without_fault(judged: Judged) -> None:
    verdict = await judged.verdict()
    assert verdict.problems == []
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.alarms_expected == verdict.alarms_raised > 4
    assert verdict.account.duplicate > 0
    assert verdict.account.refused > 0
    assert verdict.account.conflicting > 0


async def test_a_row_that_is_missing_in_a_shard_is_lost(judged: Judged) -> None:
    first, end = judged.course.sensor_range
    row = f"(SELECT min(sensor_id) FROM sensor_readings WHERE sensor_id BETWEEN {first} AND {end})"
    await judged.change(0, f"CREATE TABLE kept AS SELECT * FROM sensor_readings WHERE sensor_id = {row}")
    gone = await judged.change(0, f"DELETE FROM sensor_readings WHERE sensor_id = {row}")
    verdict = await judged.verdict()
    assert verdict.lost >= gone > 10
    assert any(f"{gone} keys are missing in the shards" in problem for problem in verdict.problems)
    await judged.change(0, "INSERT INTO sensor_readings SELECT * FROM kept")


async def test_another_value_or_flag_and_a_row_that_nobody_sent_are_found(judged: Judged) -> None:
    first, end = judged.course.sensor_range
    of_run = f"sensor_id BETWEEN {first} AND {end}"
    newest = (
        f"(SELECT sensor_id, timestamp FROM sensor_readings WHERE {of_run} AND sensor_id % 1000 = 15 ORDER BY 2 DESC LIMIT 1)"
    )
    one = f"(sensor_id, timestamp) = {newest}"
    assert await judged.change(1, f"UPDATE sensor_readings SET ph_level = ph_level * 2 WHERE {one}") == 1
    verdict = await judged.verdict()
    assert verdict.lost == 1
    await judged.change(1, f"UPDATE sensor_readings SET ph_level = ph_level / 2, flags = flags + 1 WHERE {one}")
    verdict = await judged.verdict()
    assert [problem for problem in verdict.problems if "other flags" in problem]
    await judged.change(1, f"UPDATE sensor_readings SET flags = flags - 1 WHERE {one}")
    await judged.change(
        1,
        "INSERT INTO sensor_readings (sensor_id, timestamp, region, flags) "
        f"SELECT sensor_id, timestamp - interval '1 year', region, flags FROM sensor_readings WHERE {one}",
    )
    assert (await judged.verdict()).doubled == 1
    await judged.change(1, f"DELETE FROM sensor_readings WHERE {of_run} AND timestamp < now() - interval '200 days'")


async def test_a_loser_that_is_not_kept_an_object_that_is_gone_and_an_alert_too_many_are_found(judged: Judged) -> None:
    await judged.change(0, "CREATE TABLE losers AS SELECT * FROM conflicting_readings")
    gone = await judged.change(0, "DELETE FROM conflicting_readings")
    verdict = await judged.verdict()
    assert any("have not all their other values" in problem for problem in verdict.problems)
    assert verdict.lost >= gone > 0
    folder = judged.deployment.objects_folder / "water_quality_data" / judged.course.region
    objects = sorted(folder.rglob("*.parquet"))
    objects[0].rename(objects[0].with_suffix(".hidden"))
    assert any("missing in the archive" in problem for problem in (await judged.verdict()).problems)
    judged.load.sent.lanes.clear()
    verdict = await judged.verdict()
    assert any("alarms are too many" in problem for problem in verdict.problems)
    assert verdict.doubled > 1_000, "nothing of it was sent"
