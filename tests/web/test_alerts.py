"""Alerts through the page's server, over the real AlertService: shown when raised, gone when resolved, and acted upon."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from mesh.clock import SystemClock
from tests.alert.alert_serving import AlertServing, alert_serving
from tests.alert.alerting import FreshDatabase, a_task
from tests.web.dashboard import client, hearing, post
from water.condition import Change
from web_svc.wiring import serving_web


@dataclass(slots=True)
class Watched:
    """An AlertService, and a page of it."""

    service: AlertServing
    page: str


@pytest.fixture
async def watched(fresh_database: FreshDatabase) -> AsyncIterator[Watched]:
    async with (
        alert_serving(fresh_database) as service,
        serving_web(service.target, "127.0.0.1", 0, SystemClock()) as address,
    ):
        yield Watched(service, f"http://{address}")


async def test_an_alert_is_heard_as_it_is_with_evidence_and_times(watched: Watched) -> None:
    await watched.service.mesh.take(a_task())
    async with hearing(watched.page) as heard:
        await heard.until(lambda heard: heard.parts["alerts"])
        (alert,) = heard.parts["alerts"].values()
    assert (alert["kind"], alert["severity"], alert["state"]) == ("contamination", 3, "unacknowledged")
    assert (alert["sensor_id"], alert["site_id"], alert["region"]) == ("7", "plant-1", "north")
    assert alert["evidence"] == [{"parameter": 1, "value": 6.9, "expected": 7.5, "score": 4.0, "test": "rate"}]
    assert alert["raised_us"] == a_task().condition.began_us
    assert "7" in alert["summary"]


async def test_an_alert_raised_while_a_browser_looks_comes_and_one_that_is_resolved_goes(watched: Watched) -> None:
    async with hearing(watched.page) as heard:
        await heard.until(lambda heard: heard.parts["sources"].get("alerts", {}).get("problem") == "")
        await watched.service.mesh.take(a_task())
        await heard.until(lambda heard: heard.parts["alerts"])
        (key,) = heard.parts["alerts"]
        await watched.service.alerts.resolve(int(key), "somebody", "over")
        await heard.until(lambda heard: not heard.parts["alerts"])
        assert heard.resets == 1


async def test_what_a_person_does_on_the_page_is_done_by_the_service_as_dashboard(watched: Watched) -> None:
    await watched.service.mesh.take(a_task())
    async with hearing(watched.page) as heard:
        await heard.until(lambda heard: heard.parts["alerts"])
        (key,) = heard.parts["alerts"]
        answer = await post(watched.page, f"/alerts/{key}/acknowledge", {"comment": "<b>seen</b>"})
        assert (answer.status_code, answer.json()["alert"]["state"]) == (200, "acknowledged")
        await heard.until(lambda heard: heard.parts["alerts"][key]["state"] == "acknowledged")
        assert (await post(watched.page, f"/alerts/{key}/comment", {"comment": "looking"})).status_code == 200
        async with client(watched.page) as http:
            history = (await http.get(f"/alerts/{key}")).json()["history"]
        steps = [(step["actor"], step["to"], step["comment"]) for step in history]
        assert steps[-2:] == [("dashboard", "acknowledged", "<b>seen</b>"), ("dashboard", "acknowledged", "looking")]
        await watched.service.mesh.take(a_task(Change.CLEARED, seen=5))
        assert (await post(watched.page, f"/alerts/{key}/resolve", {"comment": "flushed"})).status_code in (200, 409)
        await heard.until(lambda heard: not heard.parts["alerts"])


async def test_what_the_service_refuses_comes_back_as_one_line(watched: Watched) -> None:
    await watched.service.mesh.take(a_task())
    async with hearing(watched.page) as heard:
        await heard.until(lambda heard: heard.parts["alerts"])
        (key,) = heard.parts["alerts"]
    assert (await post(watched.page, f"/alerts/{key}/resolve")).status_code == 400
    assert (await post(watched.page, f"/alerts/{key}/comment", {"comment": "\0"})).status_code == 400
    assert (await post(watched.page, f"/alerts/{key}/acknowledge")).status_code == 200
    again = await post(watched.page, f"/alerts/{key}/acknowledge")
    assert (again.status_code, again.json()["error"]["reason"]) == (409, "ALREADY_ACKNOWLEDGED")
    assert "\n" not in again.json()["error"]["message"]
    missing = await post(watched.page, "/alerts/123456/acknowledge")
    assert (missing.status_code, missing.json()["error"]["reason"]) == (404, "ALERT_NOT_FOUND")
    async with client(watched.page) as http:
        assert (await http.get("/alerts/123456")).status_code == 404
        assert (await http.get("/alerts/x")).status_code == 400
