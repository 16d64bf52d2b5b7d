"""RuleService over the wire: what is set is read back, listed in order, guarded by etags, deleted once; bad input by name."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from waterquality.v1 import rule_pb2

from alert_svc import rules as rules_module
from alert_svc.rule_defaults import DEFAULT_RULES
from alert_svc.rule_tables import FIRST_VERSION
from mesh.adapters.directory import DirectoryObjects
from mesh.errors import Conflict, InvalidArgument, NotFound, TooLarge
from mesh.tokens import write_token
from tests.alert.rule_serving import RuleServing, a_rule, error_of, rule_serving
from tests.conftest import FreshDatabase
from water.sites import Site

DEFAULTS = [rule.rule_id for rule in DEFAULT_RULES]


@pytest.fixture
async def served(fresh_database: FreshDatabase, objects: DirectoryObjects) -> AsyncIterator[RuleServing]:
    async with rule_serving(fresh_database, objects) as serving:
        yield serving


async def list_page(served: RuleServing, size: int = 0, token: str = "") -> rule_pb2.ListRulesResponse:
    return await served.stub.ListRules(rule_pb2.ListRulesRequest(page_size=size, page_token=token))


async def test_what_was_set_is_read_back_as_it_was_said(served: RuleServing) -> None:
    told = a_rule(
        "weir.drop-1",
        parameter=1,
        statistic=rule_pb2.STATISTIC_RATE,
        lower_limit=-0.3,
        upper_limit=0.0,
        deadband=0.05,
        severity_level=5,
        sensor_ids=[7, 2**63 - 1],
        regions=["north"],
        source_type=3,
        citation="permit 12/345 § 3",
        disabled=True,
        version=999,
        effective_time={"seconds": 1},
    )
    told.on_delay_duration.FromMilliseconds(1500)
    kept = await served.set(told)
    assert (kept.version, kept.etag) == (FIRST_VERSION + 1, str(FIRST_VERSION + 1))
    assert kept.effective_time.seconds > 1_700_000_000
    told.version, told.etag = kept.version, kept.etag
    told.effective_time.CopyFrom(kept.effective_time)
    told.off_delay_duration.seconds = 0
    assert kept == told
    page = await list_page(served)
    assert [rule for rule in page.rules if rule.rule_id == kept.rule_id] == [kept]
    assert page.version == kept.version


async def test_what_is_left_out_has_its_default_and_no_limit_stays_unset(served: RuleServing) -> None:
    kept = await served.set(a_rule())
    assert (kept.statistic, kept.severity_level, kept.deadband) == (rule_pb2.STATISTIC_VALUE, 3, 0)
    assert not kept.HasField("lower_limit")
    assert not kept.HasField("window_duration")


async def test_setting_again_replaces_the_whole_rule(served: RuleServing) -> None:
    await served.set(a_rule(deadband=1.0, regions=["north"]))
    kept = await served.set(a_rule(upper_limit=None, lower_limit=1.0))
    assert (list(kept.regions), kept.deadband, kept.HasField("upper_limit")) == ([], 0, False)
    assert (await served.ids()).count("r") == 1


async def test_an_old_etag_is_refused_and_says_the_new_one(served: RuleServing) -> None:
    first = await served.set(a_rule())
    second = await served.set(a_rule(upper_limit=6.0, etag=first.etag))
    assert second.etag != first.etag
    error = await served.refused(a_rule(upper_limit=7.0, etag=first.etag))
    assert (type(error), error.reason, error.metadata) == (Conflict, "ETAG_MISMATCH", {"etag": second.etag})
    assert (await served.set(a_rule(upper_limit=8.0))).upper_limit == 8.0


async def test_an_etag_never_fits_a_rule_that_was_deleted_or_made_anew(served: RuleServing) -> None:
    first = await served.set(a_rule())
    await served.stub.DeleteRule(rule_pb2.DeleteRuleRequest(rule_id="r"))
    error = await served.refused(a_rule(etag=first.etag))
    assert (error.reason, "deleted" in error.message) == ("ETAG_MISMATCH", True)
    await served.set(a_rule())
    assert (await served.refused(a_rule(etag=first.etag))).reason == "ETAG_MISMATCH"


async def test_of_many_changes_with_one_etag_one_is_kept(served: RuleServing) -> None:
    first = await served.set(a_rule())
    tries = [served.stub.SetRule(rule_pb2.SetRuleRequest(rule=a_rule(upper_limit=n, etag=first.etag))) for n in range(1, 9)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(answer, rule_pb2.SetRuleResponse) for answer in done) == 1


async def test_a_rule_is_deleted_once(served: RuleServing) -> None:
    await served.set(a_rule())
    await served.stub.DeleteRule(rule_pb2.DeleteRuleRequest(rule_id="r"))
    assert await served.ids() == DEFAULTS
    for rule_id in ("r", "", "no/such", "x" * 10_000):
        error = await error_of(served.stub.DeleteRule(rule_pb2.DeleteRuleRequest(rule_id=rule_id)))
        assert (type(error), error.reason) == (NotFound, "RULE_NOT_FOUND")


async def test_pages_of_any_size_hold_each_rule_once_in_order(served: RuleServing) -> None:
    ids = ["z", "a", "a-b", "a.b", "a_b", "0"]
    for rule_id in ids:
        await served.set(a_rule(rule_id))
    for size in (1, 2, 7, 0, 5000):
        found, token = list[str](), ""
        while True:
            page = await list_page(served, size, token)
            assert len(page.rules) <= (size or 100)
            found += [rule.rule_id for rule in page.rules]
            token = page.next_page_token
            if not token:
                break
        assert found == sorted(ids + DEFAULTS)


async def test_a_page_of_long_rules_ends_before_it_is_too_big_for_a_client(
    served: RuleServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules_module, "PAGE_BYTES", 30_000)
    for number in range(7):
        await served.set(a_rule(f"a{number}", sensor_ids=range(10**18, 10**18 + 1000)))
    found, token, pages = list[str](), "", 0
    while pages == 0 or token:
        page = await list_page(served, 100, token)
        found, token, pages = found + [rule.rule_id for rule in page.rules], page.next_page_token, pages + 1
        assert 1 <= len(page.rules) <= len(DEFAULTS) + 1
    assert found == [*(f"a{number}" for number in range(7)), *DEFAULTS]
    assert pages >= 7


async def test_no_more_rules_are_kept_than_screening_can_hold(served: RuleServing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_module, "MOST_RULES", len(DEFAULTS) + 1)
    await served.set(a_rule("r1"))
    error = await served.refused(a_rule("r2"))
    assert (type(error), error.reason) == (TooLarge, "TOO_MANY_RULES")
    await served.set(a_rule("r1", upper_limit=1.0))
    monkeypatch.setattr(rules_module, "MOST_BYTES", 5_000)
    assert (await served.refused(a_rule("r1", sensor_ids=range(1, 1001)))).reason == "TOO_MANY_RULES"
    assert (await list_page(served)).version == FIRST_VERSION + 2


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("nonsense", "INVALID_TOKEN"),
        (write_token("sites", {"a": "r"}), "INVALID_TOKEN"),
        (write_token("rules", {"q": "", "a": [5]}), "INVALID_TOKEN"),
        (write_token("rules", {}), "INVALID_TOKEN"),
        (write_token("rules", {"q": "", "a": ["\0"]}), "INVALID_TOKEN"),
    ],
)
async def test_a_token_of_something_else_is_refused(served: RuleServing, token: str, reason: str) -> None:
    error = await error_of(served.stub.ListRules(rule_pb2.ListRulesRequest(page_token=token)))
    assert (type(error), error.reason) == (InvalidArgument, reason)


async def test_a_negative_page_is_refused_by_name(served: RuleServing) -> None:
    error = await error_of(served.stub.ListRules(rule_pb2.ListRulesRequest(page_size=-1)))
    assert list(error.fields) == ["page_size"]


async def test_bad_rules_are_refused_by_name_and_change_nothing(served: RuleServing) -> None:
    bad = {
        "rule.lower_limit": [a_rule(upper_limit=None), a_rule(lower_limit=6.0)],
        "rule.parameter": [a_rule(parameter=0), a_rule(parameter=77)],
        "rule.statistic": [a_rule(statistic=rule_pb2.STATISTIC_MEAN)],
        "rule.window_duration": [a_rule(window_duration={"seconds": 60})],
        "rule.on_delay_duration": [a_rule(on_delay_duration={"seconds": -1}), a_rule(on_delay_duration={"seconds": 10**12})],
        "rule.rule_id": [a_rule("<script>"), a_rule(""), a_rule("é")],
        "rule.site_ids": [a_rule(site_ids=["a/../b"])],
    }
    for field, rules in bad.items():
        for rule in rules:
            error = await served.refused(rule)
            assert (type(error), list(error.fields)) == (InvalidArgument, [field])
    nothing = await error_of(served.stub.SetRule(rule_pb2.SetRuleRequest()))
    assert set(nothing.fields) == {"rule.rule_id", "rule.parameter", "rule.lower_limit"}
    assert (await list_page(served)).version == FIRST_VERSION


async def test_an_unsupported_statistic_is_named(served: RuleServing) -> None:
    error = await served.refused(a_rule(statistic=rule_pb2.STATISTIC_MEAN_OF_DAILY_MIN))
    assert (error.reason, "STATISTIC_MEAN_OF_DAILY_MIN" in error.message) == ("STATISTIC_NOT_SUPPORTED", True)


async def test_an_unknown_site_is_named_after_a_wait_and_changes_nothing(served: RuleServing) -> None:
    await served.sites.create(Site("weir", region="north", source_type=3), "")
    await served.catalog_publisher.publish_pending()
    error = await served.refused(a_rule(site_ids=["weir", "nowhere"]))
    assert (type(error), error.reason, list(error.fields)) == (InvalidArgument, "UNKNOWN_SITE", ["rule.site_ids"])
    assert "'nowhere'" in error.message
    assert "'weir'" not in error.message
    assert (await list_page(served)).version == FIRST_VERSION
    assert list((await served.set(a_rule(site_ids=["weir"]))).site_ids) == ["weir"]
