"""A rule that is deleted or disabled has no lasting alert, also when one is raised at that very moment."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from waterquality.v1 import rule_pb2

from alert_svc.store import lock_conditions
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_exchange import open_postgres_exchange
from mesh.clock import SystemClock
from mesh.shards import transaction
from tests.alert.alerting import Alerting, a_limit
from tests.alert.rule_serving import RuleServing, a_rule, rule_serving
from tests.conftest import FreshDatabase
from tests.query.deployment import until

LASTING = "SELECT condition_id FROM alert.contamination_alerts WHERE cleared IS NULL ORDER BY 1"
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@dataclass(slots=True)
class Raising:
    """The service, and alerts over the same database."""

    served: RuleServing
    alerts: Alerting

    async def lasting(self) -> list[str]:
        return [condition for (condition,) in await self.alerts.rows(LASTING)]

    async def delete(self, rule_id: str) -> None:
        await self.served.stub.DeleteRule(rule_pb2.DeleteRuleRequest(rule_id=rule_id))


@pytest.fixture
async def raising(fresh_database: FreshDatabase, objects: DirectoryObjects) -> AsyncIterator[Raising]:
    clock = SystemClock()
    async with rule_serving(fresh_database, objects) as served:
        url = served.engine.url.render_as_string(hide_password=False)
        async with open_postgres_exchange(url, clock) as exchange:
            yield Raising(served, Alerting(served.engine, exchange, url, clock))


async def test_deleting_a_rule_clears_its_alerts_and_no_others(raising: Raising) -> None:
    for rule_id in ("a", "b"):
        await raising.served.set(a_rule(rule_id))
        await raising.alerts.take(a_limit(rule_id=rule_id, condition_id=f"{rule_id}/7"))
    assert await raising.lasting() == ["a/7", "b/7"]
    await raising.delete("a")
    assert await raising.lasting() == ["b/7"]
    assert "rule deleted" in [comment for _, _, comment in await raising.alerts.steps()]
    await raising.alerts.take(a_limit(rule_id="a", condition_id="a/8"))
    assert await raising.lasting() == ["b/7"]


async def test_disabling_a_rule_clears_its_alerts_and_enabling_lets_new_ones_come(raising: Raising) -> None:
    await raising.served.set(a_rule("a"))
    await raising.alerts.take(a_limit(rule_id="a", condition_id="a/7"))
    await raising.served.set(a_rule("a", disabled=True))
    assert await raising.lasting() == []
    await raising.alerts.take(a_limit(rule_id="a", condition_id="a/8"))
    assert await raising.lasting() == []
    await raising.served.set(a_rule("a"))
    await raising.alerts.take(a_limit(rule_id="a", condition_id="a/9"))
    assert await raising.lasting() == ["a/9"]


async def test_changing_a_rule_otherwise_leaves_its_alerts(raising: Raising) -> None:
    await raising.served.set(a_rule("a"))
    await raising.alerts.take(a_limit(rule_id="a", condition_id="a/7"))
    await raising.served.set(a_rule("a", upper_limit=9.0))
    assert await raising.lasting() == ["a/7"]


@pytest.mark.parametrize("way", ["delete", "disable"])
async def test_a_rule_does_not_go_before_an_alert_that_is_being_raised_of_it_can_be_cleared(raising: Raising, way: str) -> None:
    await raising.served.set(a_rule("a"))
    async with transaction(raising.served.engine) as connection:
        assert list(await lock_conditions(connection, ["a"], ["a/7"])) == ["a"]
        change = raising.delete("a") if way == "delete" else raising.served.set(a_rule("a", disabled=True))
        going = asyncio.ensure_future(change)

        async def settled() -> bool:
            return going.done() or await raising.alerts.rows(WAITING) != []

        await until(settled)
        assert not going.done()
    await going


async def test_an_alert_raised_while_its_rule_goes_never_lasts(raising: Raising) -> None:
    for number in range(12):
        await raising.served.set(a_rule("a"))
        going = raising.delete("a") if number % 2 else raising.served.set(a_rule("a", disabled=True))
        tasks = [a_limit(rule_id="a", condition_id=f"a/{number}/{each}") for each in range(4)]
        await asyncio.gather(*(raising.alerts.take(task) for task in tasks), going)
        assert await raising.lasting() == []
