"""One alert per condition (law 8): episodes open, raise again and clear alerts; none is opened twice or by what is over."""

from collections.abc import AsyncIterator
from itertools import permutations

import pytest

from alert_svc.alerts import Alerts
from mesh.clock import ManualClock
from mesh.codec.notices import read_notice
from tests.alert.alerting import FINAL, Alerting, FreshDatabase, a_task, alerting
from tests.builders import START_US
from water.condition import Change, Evidence

RAISED, UPDATED, CLEARED = Change
UNACKNOWLEDGED, ACKNOWLEDGED, RETURNED, RESOLVED = 1, 2, 3, 7


@pytest.fixture
async def mesh(fresh_database: FreshDatabase, clock: ManualClock) -> AsyncIterator[Alerting]:
    async with alerting(fresh_database, clock) as made:
        yield made


async def test_a_condition_that_is_raised_is_an_unacknowledged_alert_with_all_that_is_known(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED, 5, severity=4))
    ((row,),) = await mesh.rows("SELECT to_jsonb(a) FROM contamination_alerts AS a")
    assert {
        name: row[name] for name in ("sensor_id", "site_id", "region", "gateway_id", "rule_id", "severity_level", "state")
    } == {
        "sensor_id": 7,
        "site_id": "plant-1",
        "region": "north",
        "gateway_id": "gateway-1",
        "rule_id": "two-rates",
        "severity_level": 4,
        "state": UNACKNOWLEDGED,
    }
    assert row["evidence"] == [{"parameter": 1, "value": 6.9, "expected": 7.5, "score": 4.0, "test": "rate"}]
    assert (row["resolved"], row["historical"], row["cleared"]) == (False, False, None)
    assert await mesh.notices() == [(row["alert_id"], 1)]
    assert await mesh.steps() == [(0, 1, "began 2026-01-01 00:05:00 UTC")]


async def test_a_condition_that_ends_unseen_is_returned_and_its_end_is_kept(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED), a_task(CLEARED, 0, 9))
    assert await mesh.states() == [RETURNED]
    assert await mesh.one("cleared = timestamp + interval '9 minutes'")
    assert len(await mesh.notices()) == 2


async def test_what_grows_worse_is_announced_as_escalated_whatever_else_is_said_of_it(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED), a_task(UPDATED, 0, 2, severity=4), a_task(RAISED, 20, severity=5))
    await Alerts(mesh.catalog, mesh.clock).acknowledge(1, "maria", "on my way")
    await mesh.take(a_task(CLEARED, 20, 9, severity=5))
    announced = [read_notice(body) for (body,) in await mesh.rows("SELECT body FROM alert.outbox ORDER BY notice_id")]
    assert [said.change for said in announced] == ["raised", "escalated", "escalated", "acknowledged", "resolved"]
    assert [said.severity_level for said in announced] == [3, 4, 5, 5, 5]
    assert (await mesh.steps())[2] == (1, 1, "raised again: began 2026-01-01 00:20:00 UTC; severity 4 to 5")


async def test_times_are_exact_to_the_microsecond(mesh: Alerting) -> None:
    await mesh.take(a_task(began_us=START_US + 123_457, measured_us=START_US + 999_999))
    ((begin, seen),) = await mesh.rows("SELECT timestamp, last_seen FROM contamination_alerts")
    assert (begin.microsecond, seen.microsecond) == (123_457, 999_999)


async def test_a_repeated_task_writes_nothing(mesh: Alerting) -> None:
    tasks = [a_task(RAISED), a_task(UPDATED, 0, 2, severity=4), a_task(CLEARED, 0, 9)]
    await mesh.take(*tasks)
    before = await mesh.rows("SELECT *, xmin FROM alert.contamination_alerts"), await mesh.steps(), await mesh.notices()
    await mesh.take(*tasks, *reversed(tasks))
    after = await mesh.rows("SELECT *, xmin FROM alert.contamination_alerts"), await mesh.steps(), await mesh.notices()
    assert after == before


async def test_an_update_is_a_change_but_a_notice_only_when_it_is_more_severe(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED), a_task(UPDATED, 0, 2))
    assert (await mesh.one("change"), len(await mesh.notices())) == (2, 1)
    await mesh.take(a_task(UPDATED, 0, 3, severity=5))
    assert (await mesh.one("severity_level"), len(await mesh.notices())) == (5, 2)
    assert (await mesh.steps())[-1] == (1, 1, "severity 3 to 5")
    await mesh.take(a_task(UPDATED, 0, 4, severity=3))
    assert (await mesh.one("severity_level"), len(await mesh.notices())) == (5, 2)


async def test_evidence_is_that_of_the_newest_of_the_strongest_tasks_strongest_first(mesh: Alerting) -> None:
    weak, strong = Evidence(1, 6.9, 7.5, 2.0, "rate"), Evidence(2, 90.0, 4.0, 8.0, "rate")
    await mesh.take(
        a_task(UPDATED, 0, 2, severity=4, evidence=(weak, strong)),
        a_task(UPDATED, 0, 1, severity=4, evidence=(strong,)),
        a_task(UPDATED, 0, 5, severity=3, evidence=(weak,)),
        a_task(CLEARED, 0, 6, severity=4, evidence=()),
    )
    assert [each["score"] for each in await mesh.one("evidence")] == [8.0, 2.0]


async def test_an_end_that_arrives_first_is_final_and_is_still_shown_to_somebody(mesh: Alerting) -> None:
    await mesh.take(a_task(CLEARED, 0, 9), a_task(RAISED), a_task(UPDATED, 0, 3))
    assert await mesh.states() == [RETURNED]
    assert len(await mesh.notices()) == 1


async def test_a_new_episode_raises_the_open_alert_again(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED, 0), a_task(CLEARED, 0, 9), a_task(RAISED, 20))
    assert await mesh.states() == [UNACKNOWLEDGED]
    assert await mesh.one("cleared") is None
    assert await mesh.steps() == [
        (0, 1, "began 2026-01-01 00:00:00 UTC"),
        (1, 3, "over since 2026-01-01 00:09:00 UTC"),
        (3, 1, "raised again: began 2026-01-01 00:20:00 UTC"),
    ]
    assert len(await mesh.notices()) == 3


async def test_a_new_episode_of_an_alert_that_nobody_has_seen_yet_is_in_its_history_but_no_notice(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED, 0), a_task(RAISED, 20))
    assert len(await mesh.notices()) == 1
    assert (await mesh.steps())[-1] == (1, 1, "raised again: began 2026-01-01 00:20:00 UTC")


async def test_an_older_episode_never_opens_or_raises_and_joins_the_history(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED, 20), a_task(CLEARED, 20, 5), a_task(RAISED, 0))
    assert await mesh.states() == [RETURNED]
    assert await mesh.rows("SELECT count(DISTINCT alert_id), count(*) FROM alert.episodes") == [(1, 2)]
    assert (await mesh.steps())[-1] == (3, 3, "told late: an earlier time that began 2026-01-01 00:00:00 UTC")
    assert len(await mesh.notices()) == 2


async def test_tasks_of_several_conditions_in_one_transaction_stay_apart(mesh: Alerting) -> None:
    tasks = [a_task(RAISED, 0, condition_id=f"c/{number}") for number in range(5)]
    tasks += [a_task(CLEARED, 0, 5, condition_id="c/1"), a_task(RAISED, 9, condition_id="c/1"), tasks[0]]
    await mesh.worker().take(tasks)
    assert sorted(await mesh.states()) == [UNACKNOWLEDGED] * 5
    assert len(await mesh.notices()) == 7


async def test_every_order_of_the_same_tasks_ends_in_the_same_alerts(mesh: Alerting) -> None:
    tasks = [
        a_task(RAISED, 0),
        a_task(CLEARED, 0, 5, severity=4),
        a_task(CLEARED, 9, 1, historical=True),
        a_task(RAISED, 9),
        a_task(UPDATED, 9, 3),
    ]
    ends = []
    for order in permutations(tasks):
        await mesh.worker().take(order)
        ends.append(await mesh.rows(FINAL))
        await mesh.forget()
    assert all(end == ends[0] for end in ends)


async def test_what_only_backfill_shows_is_stored_closed_and_wakes_nobody(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED, historical=True), a_task(CLEARED, 0, 9, historical=True), a_task(RAISED, 20, historical=True))
    assert await mesh.rows("SELECT state, historical, cleared IS NULL FROM contamination_alerts ORDER BY timestamp") == [
        (RESOLVED, True, False),
        (RESOLVED, True, True),
    ]
    assert await mesh.notices() == []
    assert len(await mesh.steps()) == 2


async def test_a_live_episode_that_backfill_showed_first_wakes_even_when_backfill_saw_its_end(mesh: Alerting) -> None:
    await mesh.take(a_task(CLEARED, 0, 2, historical=True), a_task(RAISED))
    assert await mesh.states() == [UNACKNOWLEDGED]
    assert (await mesh.one("historical"), await mesh.one("cleared")) == (False, None)
    assert await mesh.notices() == [(1, 2)]


async def test_backfill_of_later_times_makes_no_live_episode_an_old_one(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED, 50, historical=True), a_task(RAISED, 10))
    assert await mesh.rows("SELECT state FROM contamination_alerts WHERE NOT historical") == [(UNACKNOWLEDGED,)]
    assert len(await mesh.notices()) == 1


async def test_backfill_of_a_live_episode_changes_nothing(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED))
    before = await mesh.rows(FINAL)
    await mesh.take(a_task(CLEARED, 0, 3, severity=5, historical=True))
    assert await mesh.rows(FINAL) == before
    assert len(await mesh.notices()) == 1


async def test_history_that_turns_out_to_be_live_is_absorbed_by_the_open_alert_with_what_people_said(mesh: Alerting) -> None:
    await mesh.take(a_task(RAISED, 20, historical=True), a_task(RAISED, 0))
    await Alerts(mesh.catalog, mesh.clock).comment(1, "maria", "a pump test")
    await mesh.take(a_task(RAISED, 20))
    assert await mesh.rows("SELECT alert_id, state FROM contamination_alerts") == [(2, UNACKNOWLEDGED)]
    assert await mesh.rows("SELECT DISTINCT alert_id FROM alert.episodes") == [(2,)]
    assert await mesh.rows("SELECT alert_id, comment FROM alert.alert_events WHERE actor = 'maria'") == [(2, "a pump test")]
