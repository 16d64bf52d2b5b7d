"""Rules in the Log: every change a greater version, the whole newest set in every partition, whatever happens meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from waterquality.v1 import rule_pb2

from alert_svc.rule_defaults import DEFAULT_RULES
from alert_svc.rule_tables import FIRST_VERSION, create_rule_tables
from alert_svc.rules_owner import RulesOwner
from mesh.adapters.directory import DirectoryObjects
from mesh.clock import SystemClock
from mesh.codec.log_records import ContextKind
from mesh.codec.rules import read_rule
from mesh.context import Publisher, ensure_first_contexts
from mesh.stages import Progress
from tests.alert.rule_serving import RuleServing, a_rule, rule_serving
from tests.conftest import START_US, FreshDatabase

DEFAULTS = [rule.rule_id for rule in DEFAULT_RULES]


@pytest.fixture
async def served(fresh_database: FreshDatabase, objects: DirectoryObjects) -> AsyncIterator[RuleServing]:
    async with rule_serving(fresh_database, objects) as serving:
        yield serving


async def test_the_first_version_holds_the_defaults_and_is_published_once(served: RuleServing) -> None:
    assert await served.publisher.publish_pending() == FIRST_VERSION
    assert await served.publisher.publish_pending() is None
    assert await served.everywhere() == [FIRST_VERSION]
    published = await served.published()
    assert [rule.rule_id for rule in published] == DEFAULTS
    assert [read_rule(rule).citation for rule in published] == [rule.citation for rule in DEFAULT_RULES]


async def test_it_is_greater_than_the_empty_set_that_older_deployments_have_published(served: RuleServing) -> None:
    await ensure_first_contexts({ContextKind.RULES: b""}, served.log, served.objects)
    await served.publisher.publish_pending()
    assert await served.everywhere() == [1, FIRST_VERSION]


async def test_every_change_makes_a_version_and_the_newest_is_published_whole(served: RuleServing) -> None:
    await served.publisher.publish_pending()
    for rule_id in DEFAULTS:
        await served.stub.DeleteRule(rule_pb2.DeleteRuleRequest(rule_id=rule_id))
    kept = [await served.set(a_rule(rule_id, disabled=rule_id == "b")) for rule_id in ("a", "b", "c")]
    newest = FIRST_VERSION + len(DEFAULTS) + 3
    assert await served.publisher.publish_pending() == newest
    assert await served.everywhere() == [FIRST_VERSION, newest]
    assert await served.published() == kept


async def test_a_change_that_is_refused_makes_no_version(served: RuleServing) -> None:
    await served.publisher.publish_pending()
    await served.set(a_rule())
    await served.publisher.publish_pending()
    await served.refused(a_rule(etag="0"))
    await served.refused(a_rule(upper_limit=None))
    assert await served.publisher.publish_pending() is None


async def test_two_publishers_at_once_publish_a_version_once(served: RuleServing) -> None:
    owner = RulesOwner(served.engine)
    publishers = [Publisher(owner, served.log, served.objects, Progress("rules"), SystemClock()) for _ in range(3)]
    done = await asyncio.gather(*(publisher.publish_pending() for publisher in publishers))
    assert sorted(version or 0 for version in done) == [0, 0, FIRST_VERSION]
    assert await served.everywhere() == [FIRST_VERSION]


async def test_a_process_that_starts_again_finds_what_was_set_and_publishes_only_what_is_new(served: RuleServing) -> None:
    await served.publisher.publish_pending()
    await served.set(a_rule())
    await create_rule_tables(served.engine, START_US + 1)
    anew = Publisher(RulesOwner(served.engine), served.log, served.objects, Progress("rules"), SystemClock())
    assert await anew.publish_pending() == FIRST_VERSION + 1
    assert await anew.publish_pending() is None
    assert [rule.rule_id for rule in await served.published()] == sorted([*DEFAULTS, "r"])


async def test_changes_at_once_all_stand_and_their_versions_are_their_own(served: RuleServing) -> None:
    kept = await asyncio.gather(*(served.set(a_rule(f"r{number}")) for number in range(12)))
    assert sorted(rule.version for rule in kept) == list(range(FIRST_VERSION + 1, FIRST_VERSION + 13))
    await served.publisher.publish_pending()
    assert {rule.rule_id: rule for rule in await served.published()}["r7"] == kept[7]
