"""The default rules: each can be kept, has its source, suits its parameter, and comes once."""

import pytest
from sqlalchemy import text
from waterquality.v1 import rule_pb2

from alert_svc.rule_checks import checked
from alert_svc.rule_defaults import DEFAULT_RULES, INDUSTRIAL, MUNICIPAL, NATURAL
from alert_svc.rule_tables import FIRST_VERSION, create_rule_tables
from mesh.adapters.directory import DirectoryObjects
from mesh.shards import transaction
from tests.alert.rule_serving import a_rule, rule_serving
from tests.conftest import START_US, FreshDatabase
from water.parameter import BY_NUMBER
from water.rules import Rule

IDS = [rule.rule_id for rule in DEFAULT_RULES]


@pytest.mark.parametrize("rule", DEFAULT_RULES, ids=IDS)
def test_a_default_can_be_kept_and_says_where_it_comes_from(rule: Rule) -> None:
    assert checked(rule) == rule
    assert rule.citation.startswith(("40 CFR ", "EPA 440/5-86-00"))
    assert rule.source_type in (MUNICIPAL, INDUSTRIAL, NATURAL)
    assert 2 <= rule.severity_level <= 4
    assert (rule.disabled, rule.sensor_ids, rule.site_ids, rule.regions) == (False, (), (), ())


@pytest.mark.parametrize("rule", DEFAULT_RULES, ids=IDS)
def test_a_deadband_is_above_the_resolution_and_below_a_quarter_of_the_limit(rule: Rule) -> None:
    parameter = BY_NUMBER[rule.parameter]
    limits = [limit for limit in (rule.lower_limit, rule.upper_limit) if limit is not None]
    assert 5 * parameter.resolution <= rule.deadband <= min(limits) / 4
    assert all(parameter.suspect_range[0] < limit < parameter.suspect_range[1] for limit in limits)


def test_defaults_are_in_order_of_their_ids_and_cover_each_source_type() -> None:
    assert sorted(IDS) == IDS
    covered = {(rule.source_type, BY_NUMBER[rule.parameter].label) for rule in DEFAULT_RULES}
    municipal = {(MUNICIPAL, label) for label in ("pH", "turbidity", "disinfectant")}
    assert covered == municipal | {(NATURAL, "pH"), (NATURAL, "dissolved oxygen"), (INDUSTRIAL, "pH")}


async def test_a_new_deployment_has_the_defaults_and_they_come_once(
    fresh_database: FreshDatabase, objects: DirectoryObjects
) -> None:
    async with rule_serving(fresh_database, objects) as served:
        first = await served.stub.ListRules(rule_pb2.ListRulesRequest())
        assert [rule.rule_id for rule in first.rules] == IDS
        assert first.version == FIRST_VERSION
        assert {rule.effective_time.ToMicroseconds() for rule in first.rules} == {START_US}
        for rule_id in IDS[1:]:
            await served.stub.DeleteRule(rule_pb2.DeleteRuleRequest(rule_id=rule_id))
        await served.set(a_rule(IDS[0], parameter=1))
        await create_rule_tables(served.engine, START_US + 1)
        (left,) = (await served.stub.ListRules(rule_pb2.ListRulesRequest())).rules
        assert (left.rule_id, left.upper_limit, left.HasField("lower_limit")) == (IDS[0], 5.0, False)
        async with transaction(served.engine) as connection:
            await connection.execute(text("DELETE FROM alert.rules"))
        await create_rule_tables(served.engine)
        assert await served.ids() == []
