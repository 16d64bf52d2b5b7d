"""Lists of alerts: the newest first, in pages that miss none, by every part of the filter; and how an alert reads."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from waterquality.v1 import alert_pb2, task_pb2

from alert_svc.alert_filter import AlertFilter
from alert_svc.alerts import Alerts
from alert_svc.summary import summary
from mesh.clock import ManualClock
from mesh.codec.alerts import Alert, State
from mesh.errors import InvalidArgument
from mesh.tokens import write_token
from tests.alert.alerting import MINUTE_US, PH, Alerting, FreshDatabase, a_limit, a_task, alerting
from tests.builders import START_US
from water.condition import Change, Evidence, Kind


@pytest.fixture
async def mesh(fresh_database: FreshDatabase, clock: ManualClock) -> AsyncIterator[Alerting]:
    async with alerting(fresh_database, clock) as made:
        yield made


@pytest.fixture
def alerts(mesh: Alerting) -> Alerts:
    return Alerts(mesh.catalog, mesh.clock)


async def listed(alerts: Alerts, size: int = 0, **asked: Any) -> list[int]:
    """Ids of all pages."""
    found: list[int] = []
    token = ""
    while True:
        page, token = await alerts.list(AlertFilter(**asked), size, token)
        found += [alert.alert_id for alert in page]
        if not token:
            return found


async def test_the_newest_condition_comes_first_and_pages_miss_none(mesh: Alerting, alerts: Alerts) -> None:
    begins = [5, 1, 9, 5, 5, 0, 7]
    await mesh.take(*(a_task(began=begin, condition_id=f"c/{number}") for number, begin in enumerate(begins)))
    assert await listed(alerts) == [3, 7, 5, 4, 1, 2, 6]
    assert await listed(alerts, 2) == [3, 7, 5, 4, 1, 2, 6]


async def test_what_is_raised_while_paging_disturbs_no_page(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(*(a_task(began=number, condition_id=f"c/{number}") for number in range(6)))
    first, token = await alerts.list(AlertFilter(), 3, "")
    await mesh.take(a_task(began=50, condition_id="new"), a_task(began=-50, condition_id="old"))
    second, _ = await alerts.list(AlertFilter(), 10, token)
    assert [alert.alert_id for alert in first + second] == [6, 5, 4, 3, 2, 1, 8]


async def test_a_page_of_alerts_has_the_size_that_the_contract_says(mesh: Alerting, alerts: Alerts) -> None:
    tasks = [a_task(began=number, condition_id=f"c/{number}") for number in range(1_005)]
    await mesh.worker().take(tasks)
    assert len((await alerts.list(AlertFilter(), 0, ""))[0]) == 100
    assert len((await alerts.list(AlertFilter(), 5_000, ""))[0]) == 1_000
    with pytest.raises(InvalidArgument) as caught:
        await alerts.list(AlertFilter(), -1, "")
    assert caught.value.fields.keys() == {"page_size"}


async def test_a_token_belongs_to_its_question(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(*(a_task(condition_id=f"c/{number}") for number in range(3)))
    _, token = await alerts.list(AlertFilter(), 1, "")
    for asked, wrong, reason in (
        (AlertFilter(regions=frozenset(["north"])), token, "QUESTION_CHANGED"),
        (AlertFilter(), "nonsense", "INVALID_TOKEN"),
        (AlertFilter(), write_token("sites", {"q": "", "a": []}), "INVALID_TOKEN"),
        (AlertFilter(), write_token("alerts", {"q": AlertFilter().fingerprint(), "a": [2**70, 1]}), "INVALID_TOKEN"),
        (AlertFilter(), write_token("alerts", {"q": AlertFilter().fingerprint(), "a": [2**60 - 1, 1]}), "INVALID_TOKEN"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await alerts.list(asked, 1, wrong)
        assert caught.value.reason == reason


def few(values: list[Any]) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(values), max_size=2)


TIMES = st.none() | st.integers(0, 6).map(lambda minutes: START_US + minutes * MINUTE_US)
FILTERS = st.builds(
    AlertFilter,
    sensor_ids=few([1, 2, 9]),
    site_ids=few(["a", "b"]),
    regions=few(["north", "south"]),
    kinds=few([1, 2, 4]),
    states=few([1, 2, 3, 7]),
    min_severity_level=st.integers(0, 5),
    start_us=TIMES,
    end_us=TIMES,
).filter(lambda asked: asked.start_us is None or asked.end_us is None or asked.start_us < asked.end_us)


@given(asked=st.lists(FILTERS, min_size=20, max_size=20))
@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_the_database_and_a_watcher_agree_on_what_fits(fresh_database: FreshDatabase, asked: list[AlertFilter]) -> None:
    async with alerting(fresh_database, ManualClock(START_US)) as mesh:
        alerts = Alerts(mesh.catalog, mesh.clock)
        for number in range(40):
            place: dict[str, Any] = {"sensor_id": number % 3, "site_id": "abc"[number % 3], "severity": number % 5 + 1}
            kind = [Kind.CONTAMINATION, Kind.MAINTENANCE][number % 2]
            task = a_task(began=number % 7, condition_id=f"c/{number}", kind=kind, historical=number % 11 == 0, **place)
            await mesh.worker().take([replace(task, region=["north", "south", "west"][number // 2 % 3])])
        await alerts.acknowledge(3, "m", "")
        await alerts.resolve(4, "m", "x")
        everything = frozenset(range(1, 8))
        known, _ = await alerts.list(AlertFilter(states=everything), 1000, "")
        for one in asked:
            found, _ = await alerts.list(one, 1000, "")
            assert found == [alert for alert in known if one.fits(alert)]


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("sensor_ids", {"sensor_ids": frozenset([-1])}),
    ("sensor_ids", {"sensor_ids": frozenset(range(1_001))}),
    ("site_ids", {"site_ids": frozenset([""])}),
    ("site_ids", {"site_ids": frozenset(["a\0b"])}),
    ("regions", {"regions": frozenset(["North"])}),
    ("kinds", {"kinds": frozenset([9])}),
    ("states", {"states": frozenset([0])}),
    ("min_severity_level", {"min_severity_level": 6}),
    ("end_time", {"start_us": 5, "end_us": 5}),
]


@pytest.mark.parametrize(("field", "asked"), WRONG)
async def test_a_filter_without_sense_is_refused_by_name(alerts: Alerts, field: str, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await alerts.list(AlertFilter(**asked), 0, "")
    assert (caught.value.reason, list(caught.value.fields)) == ("INVALID_FILTER", [f"filter.{field}"])


async def test_partners_read_the_public_columns_in_the_public_schema(mesh: Alerting, alerts: Alerts) -> None:
    await mesh.take(a_task())
    columns = "alert_id, sensor_id, timestamp, contaminant_type, severity_level, resolved"
    ((row, kind),) = await mesh.rows(
        f"SELECT CAST(a AS text), pg_typeof(a.timestamp)::text FROM (SELECT {columns} FROM public.contamination_alerts) AS a"
    )
    assert (row, kind) == ('(1,7,"2026-01-01 00:00:00+00","",3,f)', "timestamp with time zone")
    await alerts.resolve(1, "maria", "a test")
    assert await mesh.rows("SELECT resolved FROM contamination_alerts") == [(True,)]


async def an_alert(mesh: Alerting, **more: Any) -> Alert:
    await mesh.put_rule()
    limit = more.pop("limit", False)
    await mesh.worker().take([(a_limit if limit else a_task)(condition_id=repr(more), **more)])
    alerts, _ = await Alerts(mesh.catalog, mesh.clock).list(AlertFilter(), 1000, "")
    return max(alerts, key=lambda alert: alert.alert_id)


TURBIDITY = Evidence(2, 6.316, 4.0, 1.6, "limit")
NOT_A_NUMBER = Evidence(3, float("nan"), float("inf"), 1.0, "flat")
LINES: list[tuple[str, dict[str, Any]]] = [
    ("Contamination suspected at sensor 7 (site plant-1): pH changes by 6.9 per hour, limit 7.5 per hour", {}),
    (
        "Contamination suspected, likely chlorine, at sensor 7: turbidity 6.32 NTU, limit 4 NTU",
        {"contaminant_type": "chlorine", "site_id": "", "evidence": (TURBIDITY,)},
    ),
    (
        "Limit broken at sensor 7 (site plant-1): turbidity 6.32 NTU, limit 4 NTU (rule a-rule)",
        {"limit": True, "evidence": (TURBIDITY,)},
    ),
    (
        "Silence: nothing from gateway gateway-1 since 2026-01-01 00:00:00 UTC",
        {"kind": Kind.SILENCE, "sensor_id": 0, "site_id": "", "evidence": ()},
    ),
    (
        "Maintenance needed at site plant-1: temperature not measured",
        {"kind": Kind.MAINTENANCE, "sensor_id": 0, "evidence": (NOT_A_NUMBER,)},
    ),
    (
        "Limit will be broken at sensor 7 (site plant-1), by forecast: " + "turbidity 6.32 NTU, limit 4 NTU; " * 3 + "and 2 more",
        {"kind": Kind.FORECAST, "evidence": (TURBIDITY,) * 5},
    ),
]


@pytest.mark.parametrize(("line", "more"), LINES)
async def test_the_summary_says_what_where_and_why_in_one_line(mesh: Alerting, line: str, more: dict[str, Any]) -> None:
    assert summary(await an_alert(mesh, **more)) == line


async def test_evidence_comes_back_as_it_was_measured(mesh: Alerting) -> None:
    odd = (Evidence(1, 0.1, 3.4028235e38, float("inf"), "x"), PH, NOT_A_NUMBER)
    found = (await an_alert(mesh, evidence=odd)).evidence
    assert repr(found) == repr((odd[0], PH, NOT_A_NUMBER))


def test_states_kinds_and_changes_are_those_of_the_contract() -> None:
    assert {f"ALERT_STATE_{state.name}": int(state) for state in State} == dict(alert_pb2.AlertState.items())
    assert {f"CONDITION_KIND_{kind.name}": int(kind) for kind in Kind}.items() <= dict(alert_pb2.ConditionKind.items()).items()
    assert {f"CONDITION_CHANGE_{change.name}": int(change) for change in Change}.items() <= dict(
        task_pb2.ConditionChange.items()
    ).items()
