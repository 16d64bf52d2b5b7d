"""AlertService over gRPC: what callers see, who acts, and which errors have which reason."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from waterquality.v1 import alert_pb2

from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, Unsupported
from tests.alert.alert_serving import AlertServing, alert_serving, error_of
from tests.alert.alerting import FreshDatabase, a_task
from tests.builders import START_US
from tests.query.deployment import until
from water.condition import Change

RAISED, UPDATED, CLEARED = Change


@pytest.fixture
async def served(fresh_database: FreshDatabase) -> AsyncIterator[AlertServing]:
    async with alert_serving(fresh_database) as made:
        yield made


async def test_an_alert_is_told_whole(served: AlertServing) -> None:
    await served.mesh.take(a_task(RAISED, severity=4), a_task(CLEARED, 0, 5, severity=4))
    alert = (await served.stub.GetAlert(alert_pb2.GetAlertRequest(alert_id=1))).alert
    assert (alert.alert_id, alert.sensor_id, alert.site_id, alert.region, alert.gateway_id) == (
        1,
        7,
        "plant-1",
        "north",
        "gateway-1",
    )
    assert (alert.kind, alert.rule_id, alert.severity_level, alert.state) == (1, "two-rates", 4, 3)
    assert alert.raised_time.ToMicroseconds() == START_US
    assert alert.cleared_time.ToMicroseconds() == alert.last_seen_time.ToMicroseconds() == START_US + 300_000_000
    assert alert.committed_time.ToMicroseconds() > START_US
    assert [(each.parameter, round(each.value, 1), each.test) for each in alert.evidence] == [(1, 6.9, "rate")]
    assert [(step.actor, step.from_state, step.to_state) for step in alert.history] == [("system", 0, 1), ("system", 1, 3)]
    assert alert.summary.startswith("Contamination suspected at sensor 7 (site plant-1): pH")
    assert alert.condition_id == "contamination/7"


async def test_a_list_leaves_out_histories_and_goes_on_with_its_token(served: AlertServing) -> None:
    await served.mesh.take(*(a_task(began=number, condition_id=f"c/{number}") for number in range(3)))
    first = await served.stub.ListAlerts(alert_pb2.ListAlertsRequest(page_size=2))
    second = await served.stub.ListAlerts(alert_pb2.ListAlertsRequest(page_size=2, page_token=first.next_page_token))
    assert [alert.alert_id for page in (first, second) for alert in page.alerts] == [3, 2, 1]
    assert second.next_page_token == ""
    assert not any(alert.history for alert in first.alerts)


async def test_the_answer_to_what_a_person_did_is_the_alert_as_it_is_now(served: AlertServing) -> None:
    await served.mesh.take(a_task())
    by = (("wq-actor", "maria"),)
    seen = await served.stub.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(alert_id=1, comment="coming"), metadata=by)
    assert (seen.alert.state, seen.alert.history[-1].actor, seen.alert.history[-1].comment) == (2, "maria", "coming")
    said = await served.stub.CommentAlert(alert_pb2.CommentAlertRequest(alert_id=1, comment="sampled"))
    assert (said.alert.state, said.alert.history[-1].actor) == (2, "anonymous")
    over = await served.stub.ResolveAlert(alert_pb2.ResolveAlertRequest(alert_id=1, comment="flushed"), metadata=by)
    assert (over.alert.state, len(over.alert.history)) == (7, 4)


async def test_errors_say_what_is_wrong(served: AlertServing) -> None:
    await served.mesh.take(a_task())
    acknowledge = served.stub.AcknowledgeAlert
    request = alert_pb2.AcknowledgeAlertRequest(alert_id=1)
    await acknowledge(request)
    twice = await error_of(acknowledge(request))
    assert (type(twice), twice.reason, twice.metadata) == (
        FailedPrecondition,
        "ALREADY_ACKNOWLEDGED",
        {"alert_id": "1", "state": "ACKNOWLEDGED"},
    )
    nothing = await error_of(served.stub.GetAlert(alert_pb2.GetAlertRequest(alert_id=99)))
    assert (type(nothing), nothing.reason) == (NotFound, "ALERT_NOT_FOUND")
    for actor in ("", "m" * 101, "system"):
        wrong = await error_of(acknowledge(request, metadata=(("wq-actor", actor),)))
        assert (type(wrong), list(wrong.fields)) == (InvalidArgument, ["wq-actor"])
    without = await error_of(served.stub.ResolveAlert(alert_pb2.ResolveAlertRequest(alert_id=1)))
    assert (type(without), list(without.fields)) == (InvalidArgument, ["comment"])
    both = alert_pb2.AlertFilter(min_severity_level=-1, regions=["Nowhere!"])
    many = await error_of(served.stub.ListAlerts(alert_pb2.ListAlertsRequest(filter=both)))
    assert set(many.fields) == {"filter.min_severity_level", "filter.regions"}


async def test_what_is_not_built_yet_says_so(served: AlertServing) -> None:
    for call, name in (
        (served.stub.ShelveAlert(alert_pb2.ShelveAlertRequest(alert_id=1)), "ShelveAlert"),
        (served.stub.UnshelveAlert(alert_pb2.UnshelveAlertRequest(alert_id=1)), "UnshelveAlert"),
        (served.stub.GetAlarmPerformance(alert_pb2.GetAlarmPerformanceRequest()), "GetAlarmPerformance"),
    ):
        error = await error_of(call)
        assert (type(error), error.reason) == (Unsupported, "NOT_SERVED_YET")
        assert error.metadata == {"method": f"waterquality.v1.AlertService/{name}"}


async def test_a_watcher_that_does_not_read_is_ended(fresh_database: FreshDatabase) -> None:
    async with alert_serving(fresh_database, unread_s=0.2) as served:
        call = served.stub.WatchAlerts(alert_pb2.WatchAlertsRequest())
        await call.initial_metadata()
        names = (f"c/{number}" for number in range(3_000))
        await served.mesh.worker().take([a_task(condition_id=name, contaminant_type="x" * 1_000) for name in names])
        served.watch.wake()
        await until(lambda: nobody_watches(served))
        error = await error_of(drained(call))
        assert error.reason == "ANSWER_NOT_READ"


async def nobody_watches(served: AlertServing) -> bool:
    return served.watch.watcher_count == 0


async def drained(call: Any) -> None:
    """Reads to the end."""
    async for _ in call:
        pass
