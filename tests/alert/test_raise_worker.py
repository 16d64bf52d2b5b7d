"""raise_alert on a real Exchange: done after the commit, whoever crashes; what cannot be read or stored disturbs nothing else."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from alert_svc import store
from alert_svc.alerts import Alerts
from alert_svc.raise_alert import RaiseAlert
from alert_svc.rule_end import clear_alerts_of_rule
from alert_svc.standing import Changes
from mesh.adapters.postgres_exchange import ATTEMPT_LIMIT, DEATH_LIMIT
from mesh.clock import SystemClock
from mesh.codec.alerts import State
from mesh.ports import Priority
from mesh.run import Worker, keep_running
from mesh.shards import transaction
from mesh.stages import Progress
from tests.alert.alerting import FINAL, MINUTE_US, RULE, Alerting, FreshDatabase, a_limit, a_task, alerting
from tests.builders import START_US
from tests.query.deployment import end, running, until
from water.condition import Change

RAISED, UPDATED, CLEARED = Change
UNACKNOWLEDGED, ACKNOWLEDGED, RETURNED, RESOLVED = 1, 2, 3, 7
WAITING = "SELECT count(*) FROM exchange.tasks"
DEAD = "SELECT problem FROM exchange.dead_tasks ORDER BY dead_id"


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Alerting]:
    async with alerting(fresh_database) as made:
        yield made


def settled(mesh: Alerting) -> Callable[[], Awaitable[bool]]:
    """Whether no task is left."""

    async def nothing_waits() -> bool:
        return await mesh.rows(WAITING) == [(0,)]

    return nothing_waits


async def test_what_is_published_becomes_alerts_and_the_tasks_are_done(mesh: Alerting) -> None:
    progress = Progress("raise_alert")
    await mesh.publish(*(a_task(condition_id=f"c/{number}") for number in range(30)))
    async with running(mesh.worker(progress).run):
        await until(settled(mesh))
    assert await mesh.states() == [UNACKNOWLEDGED] * 30
    assert progress.handled_count == 30


async def test_two_workers_that_crash_at_random_lose_and_double_nothing(fresh_database: FreshDatabase) -> None:
    async with alerting(fresh_database, attempt_limit=1_000) as mesh:
        await crash_two(mesh)


async def crash_two(mesh: Alerting) -> None:
    tasks = [a_task(change, 10 * at, seen) for at in range(25) for change, seen in ((RAISED, 0), (UPDATED, 3), (CLEARED, 5))]
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(one_run(mesh)) for _ in range(2)]
        for number, task in enumerate(tasks):
            await mesh.publish(task, task)
            if number % 5 == 0:
                await end(workers[number // 5 % 2])
                workers[number // 5 % 2] = group.create_task(one_run(mesh))
        await until(settled(mesh))
        for worker in workers:
            worker.cancel()
    assert await mesh.states() == [RETURNED]
    assert await mesh.rows("SELECT count(*), count(ended_us) FROM alert.episodes") == [(25, 25)]
    moves = "SELECT alert_id, change FROM alert.alert_events WHERE from_state <> to_state ORDER BY change"
    assert await mesh.notices() == await mesh.rows(moves)


async def one_run(mesh: Alerting) -> None:
    await mesh.worker().run()


async def test_what_cannot_be_read_is_buried_and_says_why(mesh: Alerting) -> None:
    await mesh.exchange.publish(Priority.HIGH, b"\xff\xff")
    await mesh.publish(a_task(severity=0), a_task(site_id="a\0b"), a_task(condition_id="c" * 2_000), a_task())
    async with running(mesh.worker().run):
        await until(settled(mesh))
    problems = [problem for (problem,) in await mesh.rows(DEAD)]
    assert len(problems) == 4
    for word in ("not a readable ConditionTask", "severity_level of 0", "site_id has 3 characters", "condition_id has 2000"):
        assert any(word in problem for problem in problems), word
    assert await mesh.states() == [UNACKNOWLEDGED]


async def test_a_task_that_poisons_its_transaction_spoils_no_other(mesh: Alerting, monkeypatch: pytest.MonkeyPatch) -> None:
    write = store.write

    async def poisoned(connection: object, changes: object) -> None:
        if "poison" in repr(changes):
            raise ValueError("poison")
        await write(connection, changes)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "write", poisoned)
    monkeypatch.setattr("alert_svc.raise_alert.RETRY_S", 0.0)
    await mesh.publish(*(a_task(condition_id=f"c/{number}" if number != 3 else "poison") for number in range(6)))
    async with running(mesh.worker().run):
        await until(settled(mesh))
    assert await mesh.states() == [UNACKNOWLEDGED] * 5
    assert await mesh.rows(DEAD) == [("tried 5 times",)]


class Hasty(SystemClock):
    """Whose pauses are short."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 20)


async def test_no_outage_however_long_costs_a_task_one_of_its_tries(mesh: Alerting, fresh_database: FreshDatabase) -> None:
    async with alerting(fresh_database) as apart:
        name = apart.catalog.url.database
        progress = Progress("raise_alert")
        await mesh.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await mesh.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name", name=name)
        await mesh.publish(*(a_task(condition_id=f"c/{number}") for number in range(20)))
        worker = Worker(progress, RaiseAlert(mesh.exchange, apart.catalog, progress, mesh.clock).run)
        async with running(lambda: keep_running(worker, Hasty(), random.Random())):
            for _ in range(ATTEMPT_LIMIT + DEATH_LIMIT + 5):  # each is one more life
                progress.problem = ""
                await until(lambda: told(progress))
            assert set(await mesh.rows("SELECT attempt, deaths FROM exchange.tasks")) == {(0, 0)}
            await mesh.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await until(settled(mesh))
        assert await mesh.rows(DEAD) == []
        assert await apart.states() == [UNACKNOWLEDGED] * 20


async def told(progress: Progress) -> bool:
    return "away" in progress.problem


async def test_tasks_of_a_rule_that_is_gone_or_disabled_are_dropped_and_counted(mesh: Alerting) -> None:
    await mesh.take(a_limit(RAISED), a_limit(CLEARED, 0, 2))
    assert await mesh.states() == []
    await mesh.put_rule()
    await mesh.run("UPDATE alert.rules SET disabled = true WHERE rule_id = :rule", rule=RULE)
    await mesh.worker().take([a_limit(RAISED), a_task()])
    assert await mesh.rows("SELECT * FROM alert.dropped_tasks") == [(RULE, 3)]
    assert await mesh.rows("SELECT condition_id FROM contamination_alerts") == [("contamination/7",)]


async def test_deleting_a_rule_clears_its_alerts_for_good(mesh: Alerting) -> None:
    await mesh.put_rule()
    await mesh.take(*(a_limit(condition_id=f"limit/{number}") for number in range(3)), a_task())
    alerts = Alerts(mesh.catalog, mesh.clock)
    await alerts.acknowledge(2, "maria", "")
    await alerts.resolve(3, "maria", "a test")
    at_us = START_US + 7 * MINUTE_US
    async with transaction(mesh.catalog) as connection:
        await connection.exec_driver_sql(f"DELETE FROM alert.rules WHERE rule_id = '{RULE}'")
        assert await clear_alerts_of_rule(connection, RULE, at_us, "rule deleted") == 2
        assert await clear_alerts_of_rule(connection, RULE, at_us, "rule deleted") == 0
    assert await mesh.states() == [RETURNED, RESOLVED, RESOLVED, UNACKNOWLEDGED]
    assert await mesh.rows("SELECT DISTINCT ended_us FROM alert.episodes WHERE condition_id LIKE 'limit%'") == [(at_us,)]
    assert [step for step in await mesh.steps() if step[2] == "rule deleted"] == [
        (1, 3, "rule deleted"),
        (2, 7, "rule deleted"),
        (7, 7, "rule deleted"),
    ]
    before = await mesh.rows(FINAL)
    await mesh.take(a_limit(UPDATED, 0, 9, condition_id="limit/0"), a_limit(RAISED, 20, condition_id="limit/0"))
    assert await mesh.rows(FINAL) == before


async def test_a_task_taken_while_its_rule_is_deleted_leaves_no_open_alert(mesh: Alerting) -> None:
    await mesh.put_rule()
    async with asyncio.TaskGroup() as group:
        async with transaction(mesh.catalog) as connection:
            await connection.exec_driver_sql(f"DELETE FROM alert.rules WHERE rule_id = '{RULE}'")
            late = group.create_task(mesh.take(a_limit()))
            await until(lambda: waits_for_a_lock(mesh))
            assert await clear_alerts_of_rule(connection, RULE, START_US, "rule deleted") == 0
        await late
    assert await mesh.states() == []


async def test_a_task_that_comes_while_a_person_acts_undoes_nothing(mesh: Alerting) -> None:
    await mesh.take(a_task())
    async with asyncio.TaskGroup() as group:
        async with transaction(mesh.catalog) as connection:
            old = await store.load_alert(connection, 1)
            changes = Changes()
            changes.put(old, replace(old, alert=replace(old.alert, state=State.ACKNOWLEDGED)), START_US, "maria")
            await store.write(connection, changes)
            late = group.create_task(mesh.take(a_task(UPDATED, 0, 2, severity=5)))
            await until(lambda: waits_for_a_lock(mesh))
        await late
    assert await mesh.rows("SELECT state, severity_level, change FROM alert.contamination_alerts") == [(ACKNOWLEDGED, 5, 3)]
    assert await mesh.notices() == [(1, 1), (1, 2), (1, 3)]


async def waits_for_a_lock(mesh: Alerting) -> bool:
    rows = await mesh.rows(
        "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
    )
    return bool(rows)
