"""`wq rules ...` against the real service: what is shown, what --json means, what is changed and what is left alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from waterquality.v1 import rule_pb2

from alert_svc.rule_defaults import DEFAULT_RULES
from alert_svc.rule_tables import FIRST_VERSION
from mesh.adapters.directory import DirectoryObjects
from tests.alert.rule_serving import RuleServing, a_rule, rule_serving
from tests.conftest import FreshDatabase
from water.sites import Site
from wq.rules import rules

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture
async def served(fresh_database: FreshDatabase, objects: DirectoryObjects) -> AsyncIterator[RuleServing]:
    async with rule_serving(fresh_database, objects) as serving:
        yield serving


async def run(served: RuleServing, *words: str) -> Result:
    """As a person would, in a process of its own: the server answers meanwhile."""
    runner = CliRunner(env=WIDE | {"WQ_TARGET": served.target})
    return await asyncio.to_thread(runner.invoke, rules, list(words))


async def answer(served: RuleServing, *words: str) -> dict[str, Any]:
    result = await run(served, *words, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    content: dict[str, Any] = json.loads(result.stdout)
    return content


async def test_ls_shows_every_rule_with_its_limits_and_source(served: RuleServing) -> None:
    await served.set(a_rule("a-rate", parameter=1, statistic=7, lower_limit=-1.0, upper_limit=None, disabled=True))
    result = await run(served, "ls")
    assert result.exit_code == 0
    for words in ("municipal-ph", "6.5 to 8.5", "<= 1 NTU", ">= 0.2 mg/L", "1 m", "at once", "municipal water", "40 CFR 141.551"):
        assert words in result.stdout
    for words in ("a-rate (disabled)", ">= -1 per hour", "everywhere"):
        assert words in result.stdout


async def test_ls_in_json_has_the_names_of_the_protos(served: RuleServing) -> None:
    content = await answer(served, "ls")
    assert [rule["rule_id"] for rule in content["rules"]] == [rule.rule_id for rule in DEFAULT_RULES]
    assert (content["version"], content["next_page_token"]) == (FIRST_VERSION, "")
    first = content["rules"][0]
    assert (first["parameter"], first["on_delay_duration"], first["lower_limit"]) == ("PARAMETER_PH", "60s", 6.0)


async def test_no_rules_at_all_is_said(served: RuleServing) -> None:
    for rule in DEFAULT_RULES:
        assert (await run(served, "rm", rule.rule_id)).exit_code == 0
    assert (await run(served, "ls")).stdout == "no rules\n"


async def test_set_makes_a_rule_of_everything_that_is_given(served: RuleServing) -> None:
    await served.sites.create(Site("franklin", region="utah", source_type=1), "")
    await served.catalog_publisher.publish_pending()
    words = "set my-rule --parameter turbidity --upper 5 --deadband 0.5 --on-delay 60s --off-delay 1.5m --source municipal"
    more = ["--site", "franklin", "--region", "utah", "--sensor", "7", "--sensor", "8", "--severity", "4", "--citation", "none"]
    rule = (await answer(served, *words.split(), *more))["rule"]
    assert (rule["parameter"], rule["upper_limit"], rule["deadband"]) == ("PARAMETER_TURBIDITY", 5.0, 0.5)
    assert (rule["on_delay_duration"], rule["off_delay_duration"]) == ("60s", "90s")
    assert (rule["site_ids"], rule["regions"], rule["sensor_ids"]) == (["franklin"], ["utah"], [7, 8])
    assert (rule["source_type"], rule["severity_level"], rule["citation"]) == ("SOURCE_TYPE_MUNICIPAL", 4, "none")
    assert "lower_limit" not in rule


async def test_set_changes_what_is_given_and_nothing_else(served: RuleServing) -> None:
    before = (await answer(served, "show", "municipal-ph"))["rule"]
    after = (await answer(served, "set", "municipal-ph", "--upper", "9", "--disable"))["rule"]
    assert after == before | {
        "upper_limit": 9.0,
        "disabled": True,
        **{name: after[name] for name in ("etag", "version", "effective_time")},
    }
    assert after["etag"] != before["etag"]
    again = (await answer(served, "set", "municipal-ph", "--enable", "--upper", "none", "--everywhere", "--deadband", "0"))[
        "rule"
    ]
    assert (again["disabled"], "upper_limit" in again, again["lower_limit"], again["deadband"]) == (False, False, 6.5, 0.0)
    assert again["source_type"] == "SOURCE_TYPE_UNSPECIFIED"


async def test_limits_may_be_negative_and_zero(served: RuleServing) -> None:
    words = "set fall --parameter ph_level --statistic rate --lower -1.5 --upper 0"
    rule = (await answer(served, *words.split()))["rule"]
    assert (rule["lower_limit"], rule["upper_limit"], rule["statistic"]) == (-1.5, 0.0, "STATISTIC_RATE")


async def test_rm_deletes_and_says_so(served: RuleServing) -> None:
    assert (await run(served, "rm", "natural-ph")).stdout == "rule natural-ph is deleted\n"
    assert await answer(served, "rm", "natural-oxygen") == {}
    assert "natural-ph" not in await served.ids()
    for words in (["rm", "natural-ph"], ["show", "natural-ph"]):
        result = await run(served, *words)
        assert (result.exit_code, "no rule 'natural-ph'" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["r", "--parameter", "ph"], "no limit at all"),
        (["r", "--parameter", "ph", "--lower", "9", "--upper", "8"], "9 is above upper_limit 8"),
        (
            ["r", "--parameter", "ph", "--upper", "8", "--statistic", "mean", "--window", "24h"],
            "STATISTIC_MEAN is not supported yet",
        ),
        (["r", "--parameter", "ph", "--upper", "8", "--window", "24h"], "rule.window_duration"),
        (["r", "--parameter", "ph", "--upper", "8", "--percentile", "95"], "rule.percentile"),
        (["r", "--parameter", "ph", "--upper", "nan"], "no number that a reading can have"),
        (["r", "--parameter", "ph", "--upper", "8", "--site", "nowhere"], "no site 'nowhere'"),
        (["R!", "--parameter", "ph", "--upper", "8"], "a-z 0-9"),
    ],
)
async def test_what_the_service_refuses_is_told_in_its_words(served: RuleServing, words: list[str], says: str) -> None:
    result = await run(served, "set", *words)
    assert (result.exit_code, says in result.stderr) == (1, True), result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["r", "--upper", "8"], "--parameter"),
        (["municipal-ph"], "nothing to change"),
        (["r", "--parameter", "chlorine"], "disinfectant_mg_l"),
        (["r", "--parameter", "ph", "--upper", "high"], "'high' is no number"),
        (["r", "--parameter", "ph", "--upper", "8", "--on-delay", "60"], "'60' is no duration"),
        (["r", "--parameter", "ph", "--upper", "8", "--source", "sea"], "sea"),
    ],
)
async def test_what_makes_no_sense_is_a_usage_error(served: RuleServing, words: list[str], says: str) -> None:
    result = await run(served, "set", *words)
    assert (result.exit_code, says in result.stderr) == (2, True), result.output
    assert (await served.stub.ListRules(rule_pb2.ListRulesRequest())).version == FIRST_VERSION


async def test_help_has_examples() -> None:
    runner = CliRunner(env=WIDE)
    for command in ("ls", "show", "set", "rm"):
        assert "Example" in runner.invoke(rules, [command, "--help"]).stdout
