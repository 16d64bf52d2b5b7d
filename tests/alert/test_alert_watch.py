"""Watching alerts: the open ones first, then every change, of whatever process, in bounded memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from waterquality.v1 import alert_pb2

import alert_svc.watch
import alert_svc.watcher
from alert_svc import changes
from alert_svc.alert_filter import AlertFilter
from alert_svc.watcher import Watcher
from mesh.errors import Unavailable
from mesh.shards import transaction
from tests.alert.alert_serving import AlertServing, alert_serving, another, error_of
from tests.alert.alerting import FreshDatabase, a_task
from water.condition import Change

RAISED, UPDATED, CLEARED = Change
PATIENCE_S = 30.0


@pytest.fixture
async def served(fresh_database: FreshDatabase) -> AsyncIterator[AlertServing]:
    async with alert_serving(fresh_database) as made:
        yield made


async def watching(served: AlertServing, **filter_: Any) -> Any:
    """A call that is told of everything from now on."""
    call = served.stub.WatchAlerts(alert_pb2.WatchAlertsRequest(filter=alert_pb2.AlertFilter(**filter_)))
    async with asyncio.timeout(PATIENCE_S):
        await call.initial_metadata()
    return call


async def next_alert(call: Any) -> tuple[int, int]:
    """(alert, its state)."""
    async with asyncio.timeout(PATIENCE_S):
        alert = (await call.read()).alert
    return alert.alert_id, alert.state


async def test_a_watcher_is_told_the_open_alerts_first_and_then_every_change(served: AlertServing) -> None:
    await served.mesh.take(a_task(condition_id="a"), a_task(condition_id="b"))
    await served.alerts.resolve(1, "maria", "a test")
    call = await watching(served)
    assert await next_alert(call) == (2, 1)
    await served.mesh.take(a_task(condition_id="c"))
    assert await next_alert(call) == (3, 1)
    await served.alerts.acknowledge(3, "maria", "")
    assert await next_alert(call) == (3, 2)
    await served.alerts.resolve(2, "maria", "a test")
    assert await next_alert(call) == (2, 7)
    call.cancel()


async def test_a_change_in_another_process_is_told(served: AlertServing) -> None:
    async with another(served.mesh) as other:
        call = await watching(other)
        await served.mesh.take(a_task())
        assert await next_alert(call) == (1, 1)
        await served.alerts.acknowledge(1, "maria", "")
        assert await next_alert(call) == (1, 2)
        await other.alerts.resolve(1, "maria", "a test")
        assert await next_alert(call) == (1, 7)
        call.cancel()


async def test_a_change_that_began_early_and_was_committed_late_is_told(served: AlertServing) -> None:
    await served.mesh.take(a_task(condition_id="a"), a_task(condition_id="b"))
    call = await watching(served)
    assert {(await next_alert(call))[0] for _ in range(2)} == {1, 2}
    async with transaction(served.mesh.catalog) as connection:
        await connection.exec_driver_sql(
            "UPDATE alert.contamination_alerts SET change = 9, written_by = pg_current_xact_id() WHERE alert_id = 1"
        )
        await served.alerts.acknowledge(2, "maria", "")
        assert await next_alert(call) == (2, 2)
    assert await next_alert(call) == (1, 1)
    call.cancel()


async def test_a_watcher_is_told_only_of_what_it_asked_for_and_when_that_leaves(served: AlertServing) -> None:
    call = await watching(served, min_severity_level=4, states=[1])
    await served.mesh.take(a_task(condition_id="a", severity=3), a_task(condition_id="b", severity=4))
    assert await next_alert(call) == (2, 1)
    await served.alerts.acknowledge(1, "maria", "")
    await served.alerts.acknowledge(2, "maria", "")
    assert await next_alert(call) == (2, 2)
    await served.alerts.comment(2, "maria", "no more of interest here")
    await served.mesh.take(a_task(condition_id="a", severity=5, change=UPDATED, seen=1))
    await served.mesh.take(a_task(condition_id="c", severity=5))
    assert await next_alert(call) == (3, 1)
    call.cancel()


async def test_history_is_told_only_to_those_who_ask_for_resolved_ones(served: AlertServing) -> None:
    live, everything = await watching(served), await watching(served, states=[1, 7])
    await served.mesh.take(a_task(condition_id="a", historical=True), a_task(condition_id="b"))
    assert await next_alert(everything) == (1, 7)
    assert await next_alert(everything) == (2, 1)
    assert await next_alert(live) == (2, 1)
    live.cancel()
    everything.cancel()


async def test_more_changes_than_a_page_are_all_told(served: AlertServing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_svc.watch, "PAGE", 3)
    await served.mesh.worker().take([a_task(condition_id=f"a/{number}") for number in range(8)])
    call = await watching(served)
    assert {(await next_alert(call))[0] for _ in range(8)} == set(range(1, 9))
    await served.mesh.worker().take([a_task(condition_id=f"b/{number}") for number in range(8)])
    assert {(await next_alert(call))[0] for _ in range(8)} == set(range(9, 17))
    call.cancel()


async def test_one_watcher_too_many_and_a_filter_without_sense_are_refused(
    served: AlertServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_svc.watch, "MOST_WATCHERS", 1)
    wrong = served.stub.WatchAlerts(alert_pb2.WatchAlertsRequest(filter=alert_pb2.AlertFilter(min_severity_level=9)))
    assert (await error_of(wrong.read())).fields.keys() == {"filter.min_severity_level"}
    call = await watching(served)
    assert (await error_of(served.stub.WatchAlerts(alert_pb2.WatchAlertsRequest()).read())).reason == "TOO_MANY_WATCHERS"
    call.cancel()


async def test_a_stopping_server_ends_its_watchers(served: AlertServing) -> None:
    call = await watching(served)
    served.watch.close()
    assert (await error_of(call.read())).reason == "CLOSING"
    assert (await error_of(served.stub.WatchAlerts(alert_pb2.WatchAlertsRequest()).read())).reason == "CLOSING"


async def test_nobody_watching_costs_no_look(served: AlertServing, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(changes, "look", lambda *asked: looks.append(asked))
    await served.mesh.take(a_task())
    for _ in range(3):
        served.watch.wake()
        await served.alerts.get(1)
    assert looks == []


async def test_the_newest_state_wins_where_a_watcher_is_slow(served: AlertServing) -> None:
    watcher = Watcher(AlertFilter())
    await served.mesh.take(a_task())
    first = (await served.alerts.get(1)).alert
    second = (await served.alerts.acknowledge(1, "maria", "")).alert
    watcher.show([first])
    watcher.show([second])
    assert await watcher.news() == [second]
    watcher.show([first])
    third = (await served.alerts.comment(1, "maria", "more")).alert
    watcher.show([third])
    assert await watcher.news() == [third]


async def test_a_watcher_that_lets_too_many_wait_is_ended(served: AlertServing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_svc.watcher, "MOST_WAITING", 3)
    await served.mesh.worker().take([a_task(condition_id=f"a/{number}") for number in range(4)])
    alerts, _ = await served.alerts.list(AlertFilter(), 0, "")
    watcher = Watcher(AlertFilter())
    watcher.show(alerts)
    for _ in range(2):
        with pytest.raises(Unavailable, match="watch again"):
            await watcher.news()
