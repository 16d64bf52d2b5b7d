"""Law 8 under random schedules: any order, repeats, delays, people, two workers and crashes end in the alerts they should."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from hypothesis import HealthCheck, Phase, given, settings

from alert_svc.alerts import Alerts
from mesh.codec.tasks import Task
from mesh.errors import FailedPrecondition, NotFound
from tests.alert.alert_schedule import Act, Action, Crash, Rest, Tell, schedules
from tests.alert.alerting import FINAL, Alerting, FreshDatabase, alerting
from tests.query.deployment import end, until
from water.condition import Change

EPISODES = """
SELECT condition_id, began_us, historical, ended_us
FROM alert.episodes JOIN alert.contamination_alerts USING (alert_id, condition_id, historical)
"""
HISTORY = "from backfill: history"
_QUICK = settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(schedules(people=False))
@_QUICK
async def test_without_people_the_alerts_are_the_same_whatever_the_order(
    fresh_database: FreshDatabase, schedule: list[Action]
) -> None:
    async with alerting(fresh_database, attempt_limit=1_000) as mesh:
        await play(mesh, schedule)
        await check(mesh, schedule)
        found = await mesh.rows(FINAL)
        await mesh.forget()
        await mesh.take(*in_order(schedule))
        assert await mesh.rows(FINAL) == found


@given(schedules(people=True))
@_QUICK
async def test_whatever_people_do_meanwhile_the_laws_hold(fresh_database: FreshDatabase, schedule: list[Action]) -> None:
    async with alerting(fresh_database, attempt_limit=1_000) as mesh:
        await play(mesh, schedule)
        await check(mesh, schedule)


async def play(mesh: Alerting, schedule: Sequence[Action]) -> None:
    """Two workers take what is told, until nothing is left."""
    await mesh.put_rule()
    alerts = Alerts(mesh.catalog, mesh.clock)

    async def work() -> None:
        await mesh.worker().run()

    async def rested() -> bool:
        return await mesh.rows("SELECT count(*) FROM exchange.tasks") == [(0,)]

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(never_two_open(mesh))
        workers = [group.create_task(work()) for _ in range(2)]
        for action in schedule:
            match action:
                case Tell(task):
                    await mesh.publish(task)
                case Crash(worker):
                    await end(workers[worker])
                    workers[worker] = group.create_task(work())
                case Act():
                    await act(mesh, alerts, action)
                case Rest():
                    await until(rested)
        await until(rested)
        for running in (*workers, watching):
            running.cancel()


async def act(mesh: Alerting, alerts: Alerts, action: Act) -> None:
    ids = [alert_id for (alert_id,) in await mesh.rows("SELECT alert_id FROM alert.contamination_alerts ORDER BY alert_id")]
    if ids:
        with suppress(FailedPrecondition, NotFound):  # it is over, or was absorbed meanwhile
            await getattr(alerts, action.what)(ids[action.place % len(ids)], "maria", "said")


async def never_two_open(mesh: Alerting) -> None:
    statement = """
    SELECT condition_id FROM contamination_alerts WHERE NOT resolved AND NOT historical GROUP BY condition_id HAVING count(*) > 1
    """
    while True:
        assert await mesh.rows(statement) == []
        await asyncio.sleep(0.02)


def told(schedule: Sequence[Action]) -> list[Task]:
    return [action.task for action in schedule if isinstance(action, Tell)]


def in_order(schedule: Sequence[Action]) -> list[Task]:
    """Each once, as it was measured; live before backfill."""
    tasks = {
        (task.historical, task.condition.began_us, task.condition.measured_us, task.condition.condition_id): task
        for task in told(schedule)
    }
    return [tasks[key] for key in sorted(tasks)]


async def check(mesh: Alerting, schedule: Sequence[Action]) -> None:
    await check_episodes(mesh, told(schedule))
    await check_steps(mesh)


async def check_episodes(mesh: Alerting, tasks: Sequence[Task]) -> None:
    """Each once and with its end; live if it was ever told live."""
    ends: dict[tuple[str, int, bool], int | None] = {}
    for task in tasks:
        condition = task.condition
        key = condition.condition_id, condition.began_us, task.historical
        ends[key] = condition.ended_us if condition.change == Change.CLEARED else ends.get(key)
    wanted = {key[:2]: (key[2], ends[key]) for key in sorted(ends, key=lambda key: key[2], reverse=True)}
    rows = await mesh.rows(EPISODES)
    assert {(condition_id, began_us): (historical, ended_us) for condition_id, began_us, historical, ended_us in rows} == wanted
    assert len(rows) == len(wanted)


async def check_steps(mesh: Alerting) -> None:
    """Every change of state is a step, every step of an alert that is no history a notice, and what a person ended stays so."""
    statement = "SELECT alert_id, change, actor, from_state, to_state, comment FROM alert.alert_events ORDER BY event_id"
    states: dict[int, int] = {}
    over: set[int] = set()
    notices = []
    for alert_id, change, actor, before, after, comment in await mesh.rows(statement):
        if actor == "maria" and before == after:
            continue  # maybe said of one that was absorbed
        assert states.get(alert_id, 0) == before
        assert after == 7 or alert_id not in over, "what was resolved is open again"
        over |= {alert_id} if after == 7 and before not in (0, 7) else set()
        states[alert_id] = after
        if comment != HISTORY and (before != after or "severity" in comment):
            notices.append((alert_id, change))
    rows = await mesh.rows("SELECT alert_id, state FROM alert.contamination_alerts")
    assert sorted(states.items()) == sorted(rows)
    assert sorted(await mesh.notices()) == sorted(notices)
    assert await mesh.rows("SELECT * FROM alert.dropped_tasks") == []
