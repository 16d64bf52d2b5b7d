"""The first three minutes of a new user: `wq up`, its page in a browser, a contamination, and what can be done about it."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from waterquality.v1 import alert_pb2

from tests.engines import reachable_folder
from tests.flows.tour import ACTOR, ALERTS_WITHIN_S, Tour, take_tour
from tests.wq.fleet_readings import hurt
from wq.demo import Demo

pytestmark = pytest.mark.timeout(240)
CONTAMINATED = hurt(Demo.TOUR, 3, "dissolved_oxygen_mg_l", 1.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tour() -> AsyncIterator[Tour]:
    """Taken once; each test looks at one side of it."""
    with reachable_folder() as folder:
        yield await take_tour(folder)


def test_the_page_shows_live_values_within_ten_seconds_of_the_start(tour: Tour) -> None:
    assert tour.first_value_s <= 10, f"{tour.first_value_s:.1f} s"


def test_each_contaminated_sensor_has_one_alert_and_nothing_else_has_any(tour: Tour) -> None:
    assert len(CONTAMINATED) == 3
    last = tour.looks[-1]
    assert sorted(alert.sensor_id for alert in last.alerts) == sorted(CONTAMINATED)
    for alert in last.alerts:
        assert alert.kind == alert_pb2.CONDITION_KIND_CONTAMINATION
        assert len({evidence.parameter for evidence in alert.evidence}) >= 2


def test_the_alerts_come_to_the_page_by_themselves_soon_after_the_first_minute(tour: Tour) -> None:
    complete = [look.at_s for look in tour.looks if sorted(look.on_page) == sorted(CONTAMINATED)]
    assert complete, tour.looks[-1].on_page
    assert complete[0] <= ALERTS_WITHIN_S
    assert not any(look.alerts for look in tour.looks if look.at_s < 60)
    assert not tour.reloaded


def test_a_condition_never_has_two_alerts_at_any_moment(tour: Tour) -> None:
    for look in tour.looks:
        sensors = [alert.sensor_id for alert in look.alerts]
        assert len(sensors) == len(set(sensors))
        assert len(look.on_page) == len(set(look.on_page))
    assert {look.alerts[0].alert_id for look in tour.looks if len(look.alerts) == 3} == {tour.looks[-1].alerts[0].alert_id}
    assert sorted(int(alert["sensor_id"]) for alert in tour.listed) == sorted(CONTAMINATED)


def test_who_acknowledged_is_seen_on_the_page_and_by_command_wherever_it_was_done(tour: Tour) -> None:
    for alert_id, actor in ((tour.by_page, "dashboard"), (tour.by_command, ACTOR)):
        assert f"acknowledged by {actor}" in tour.cards[alert_id]
        alert = tour.shown[alert_id]
        assert alert["state"] == "ALERT_STATE_ACKNOWLEDGED"
        assert actor in [event["actor"] for event in alert["history"] if event["to_state"] == "ALERT_STATE_ACKNOWLEDGED"]


def test_an_alert_leads_to_the_chart_of_what_showed_it(tour: Tour) -> None:
    assert tour.chart.startswith("River station")
    assert "mg/L" in tour.chart


def test_the_page_paints_what_was_measured_within_a_second(tour: Tour) -> None:
    delays_ms = tour.delays_ms
    assert len(delays_ms) > 10_000
    assert np.percentile(delays_ms, 99) <= 1000, f"p50 {np.median(delays_ms):.0f} ms, most {max(delays_ms):.0f} ms"


def test_the_browser_has_nothing_to_complain_about(tour: Tour) -> None:
    assert tour.complaints == []
    assert tour.violations == []


def test_it_stops_in_order_and_the_next_start_goes_on_with_what_was_done(tour: Tour) -> None:
    assert tour.exit_codes == [0, 0]
    assert "trying again" in tour.stopped_page
    states = {int(alert["alert_id"]): alert["state"] for alert in tour.listed_again}
    assert states.keys() == {int(alert["alert_id"]) for alert in tour.listed} == tour.cards_again.keys()
    assert [states[alert_id] for alert_id in (tour.by_page, tour.by_command)] == ["ALERT_STATE_ACKNOWLEDGED"] * 2
    assert sorted(states.values())[2] == "ALERT_STATE_UNACKNOWLEDGED"
    assert f"acknowledged by {ACTOR}" in tour.cards_again[tour.by_command]
