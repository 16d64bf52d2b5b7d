"""What people do with alerts: acknowledge, resolve, comment, in which state and by whom; and what comes of it (ISA-18.2)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from alert_svc.alerts import Alerts, Told
from mesh.clock import ManualClock
from mesh.codec.alerts import Event, State
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.alert.alerting import Alerting, FreshDatabase, a_task, alerting
from tests.builders import START_US
from water.condition import Change

RAISED, UPDATED, CLEARED = Change
UNACKNOWLEDGED, ACKNOWLEDGED, RETURNED, RESOLVED = State(1), State(2), State(3), State(7)


@pytest.fixture
async def mesh(fresh_database: FreshDatabase, clock: ManualClock) -> AsyncIterator[Alerting]:
    async with alerting(fresh_database, clock) as made:
        yield made


@pytest.fixture
def alerts(mesh: Alerting) -> Alerts:
    return Alerts(mesh.catalog, mesh.clock)


async def reason(call: Awaitable[Told]) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        await call
    return caught.value.reason


async def test_acknowledging_says_who_and_when_and_is_told(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    told = await alerts.acknowledge(1, "maria", "on my way")
    assert told.alert.state == ACKNOWLEDGED
    assert told.history[-1] == Event(START_US, "maria", UNACKNOWLEDGED, ACKNOWLEDGED, "on my way")
    assert await mesh.notices() == [(1, 1), (1, 2)]
    assert await alerts.get(1) == told


async def test_an_alert_is_acknowledged_once(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    await alerts.acknowledge(1, "maria", "")
    assert await reason(alerts.acknowledge(1, "paul", "")) == "ALREADY_ACKNOWLEDGED"
    await alerts.resolve(1, "maria", "flushed")
    assert await reason(alerts.acknowledge(1, "paul", "")) == "ALERT_RESOLVED"
    assert await reason(alerts.resolve(1, "paul", "again")) == "ALERT_RESOLVED"
    assert len(await mesh.notices()) == 3


async def test_of_two_who_acknowledge_at_once_one_is_told_that_it_was_done(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    answers = await asyncio.gather(*(alerts.acknowledge(1, who, "") for who in "abcd"), return_exceptions=True)
    assert sum(isinstance(answer, Told) for answer in answers) == 1
    assert {answer.reason for answer in answers if isinstance(answer, FailedPrecondition)} == {"ALREADY_ACKNOWLEDGED"}
    assert len(await mesh.notices()) == 2


async def test_acknowledging_a_returned_alert_resolves_it(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task(RAISED), a_task(CLEARED, 0, 5))
    assert (await alerts.acknowledge(1, "maria", "")).alert.state == RESOLVED


async def test_an_acknowledged_alert_is_resolved_when_its_condition_ends(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    await alerts.acknowledge(1, "maria", "")
    await mesh.take(a_task(CLEARED, 0, 5))
    assert await mesh.states() == [RESOLVED]
    await mesh.take(a_task(UPDATED, 0, 3, severity=5), a_task(RAISED))
    assert (await mesh.states(), await mesh.one("severity_level")) == ([RESOLVED], 3)
    assert len(await mesh.notices()) == 3


async def test_what_a_person_resolved_stays_resolved_through_updates_and_its_end(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    assert (await alerts.resolve(1, "maria", "calibration")).alert.state == RESOLVED
    await mesh.take(a_task(UPDATED, 0, 3, severity=5), a_task(RAISED), a_task(RAISED, -10), a_task(CLEARED, 0, 9))
    assert await mesh.states() == [RESOLVED]
    assert await mesh.one("cleared = timestamp + interval '9 minutes'")
    assert (await mesh.one("severity_level"), len(await mesh.notices())) == (3, 2)


async def test_a_condition_that_comes_again_after_a_person_resolved_it_is_a_new_alert(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    await alerts.resolve(1, "maria", "calibration")
    await mesh.take(a_task(RAISED, 20), a_task(CLEARED, 0, 9), a_task(RAISED, 10))
    assert await mesh.states() == [RESOLVED, UNACKNOWLEDGED]
    assert await mesh.rows("SELECT alert_id FROM alert.episodes ORDER BY began_us") == [(1,), (2,), (2,)]


async def test_a_new_episode_wakes_again_after_the_first_was_acknowledged(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    await alerts.acknowledge(1, "maria", "")
    await mesh.take(a_task(CLEARED, 10, 5))
    assert await mesh.states() == [RETURNED]
    await mesh.take(a_task(RAISED, 20), a_task(CLEARED, 0, 5))
    assert await mesh.states() == [UNACKNOWLEDGED]
    assert len(await mesh.notices()) == 4


async def test_an_acknowledged_alert_clears_and_is_raised_anew_in_one_transaction(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    await alerts.acknowledge(1, "maria", "")
    await mesh.worker().take([a_task(CLEARED, 0, 5), a_task(RAISED, 20)])
    assert await mesh.states() == [RESOLVED, UNACKNOWLEDGED]


async def test_a_comment_is_history_and_no_notice_in_any_state(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    await alerts.comment(1, "maria", "smells of chlorine")
    await alerts.resolve(1, "maria", "flushed")
    told = await alerts.comment(1, "paul", "sampled too:\n0.4 mg/L")
    assert [event.comment for event in told.history[1:]] == ["smells of chlorine", "flushed", "sampled too:\n0.4 mg/L"]
    assert told.history[-1].from_state == told.history[-1].to_state == RESOLVED
    assert len(await mesh.notices()) == 2


async def test_an_alert_that_is_not_there_is_not_found(alerts: Alerts) -> None:
    for call in (alerts.get(5), alerts.acknowledge(5, "m", ""), alerts.resolve(-1, "m", "x"), alerts.comment(2**62, "m", "x")):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "ALERT_NOT_FOUND"


Ask = Callable[[Alerts], Awaitable[Told]]
WRONG: list[tuple[str, Ask]] = [
    ("comment", lambda alerts: alerts.resolve(1, "maria", "")),
    ("comment", lambda alerts: alerts.resolve(1, "maria", "  ")),
    ("comment", lambda alerts: alerts.comment(1, "maria", "")),
    ("comment", lambda alerts: alerts.comment(1, "maria", "x" * 2_001)),
    ("comment", lambda alerts: alerts.acknowledge(1, "maria", "a\0b")),
    ("wq-actor", lambda alerts: alerts.acknowledge(1, "", "")),
    ("wq-actor", lambda alerts: alerts.acknowledge(1, "m" * 101, "")),
    ("wq-actor", lambda alerts: alerts.acknowledge(1, "a\nb", "")),
    ("wq-actor", lambda alerts: alerts.acknowledge(1, "system", "")),
]


@pytest.mark.parametrize(("field", "ask"), WRONG)
async def test_what_makes_no_sense_is_refused_by_name_and_changes_nothing(
    mesh: Alerting, alerts: Alerts, field: str, ask: Ask
) -> None:
    await mesh.take(a_task())
    with pytest.raises(InvalidArgument) as caught:
        await ask(alerts)
    assert caught.value.fields.keys() == {field}
    assert await mesh.one("change") == 1


async def test_only_the_newest_steps_of_a_long_history_are_shown(
    mesh: Alerting, alerts: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alert_svc.alerts.MOST_HISTORY", 3)
    await mesh.take(a_task())
    for number in range(5):
        told = await alerts.comment(1, "maria", str(number))
    assert [event.comment for event in told.history] == ["2", "3", "4"]
