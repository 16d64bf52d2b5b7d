"""Rules that contradict themselves are refused by name, all contradictions at once; what is merely odd is kept."""

from dataclasses import replace

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from waterquality.v1 import rule_pb2

from alert_svc.rule_checks import LONGEST_CITATION, checked
from mesh.codec.rules import read_rule, take_rule, write_rule, write_rules_context
from mesh.errors import InvalidArgument
from water.rules import Rule, Statistic

GOOD = Rule("r", 2, upper_limit=5.0)
NAN, INF = float("nan"), float("inf")


def problems_of(rule: Rule) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        checked(rule)
    return caught.value.fields


@pytest.mark.parametrize(
    ("field", "rule", "words"),
    [
        ("rule_id", replace(GOOD, rule_id=""), "1 to 64"),
        ("rule_id", replace(GOOD, rule_id="a" * 65), "1 to 64"),
        ("rule_id", replace(GOOD, rule_id="Upper"), "'Upper'"),
        ("rule_id", replace(GOOD, rule_id="a/b"), "'a/b'"),
        ("rule_id", replace(GOOD, rule_id="a\n"), "1 to 64"),
        ("rule_id", replace(GOOD, rule_id="\0"), "1 to 64"),
        ("parameter", replace(GOOD, parameter=0), "0 is not one of 1, 2"),
        ("parameter", replace(GOOD, parameter=99), "99"),
        ("lower_limit", replace(GOOD, upper_limit=None), "no limit at all"),
        ("lower_limit", replace(GOOD, lower_limit=5.1), "5.1 is above upper_limit 5"),
        ("lower_limit", replace(GOOD, lower_limit=1 + 1e-12, upper_limit=1.0), "above"),
        ("lower_limit", replace(GOOD, lower_limit=NAN), "nan"),
        ("upper_limit", replace(GOOD, upper_limit=INF), "inf"),
        ("upper_limit", replace(GOOD, upper_limit=1e39), "1e+39"),
        ("deadband", replace(GOOD, deadband=-0.1), "-0.1 is negative"),
        ("deadband", replace(GOOD, deadband=NAN), "nan"),
        ("deadband", replace(GOOD, lower_limit=4.0, deadband=0.6), "at most 0.5"),
        ("deadband", replace(GOOD, upper_limit=-3e38, deadband=3e38), "nothing clears"),
        ("on_delay_duration", replace(GOOD, on_delay_s=-1.0), "-1 s"),
        ("off_delay_duration", replace(GOOD, off_delay_s=30 * 86_400 + 1.0), "30 days"),
        ("severity_level", replace(GOOD, severity_level=6), "6: 1 to 5"),
        ("severity_level", replace(GOOD, severity_level=-1), "-1"),
        ("sensor_ids", replace(GOOD, sensor_ids=(1, 0)), "'0'"),
        ("sensor_ids", replace(GOOD, sensor_ids=tuple(range(1, 1002))), "1001 given, at most 1000"),
        ("site_ids", replace(GOOD, site_ids=("a b",)), "'a b'"),
        ("site_ids", replace(GOOD, site_ids=("a",) * 1001), "1001"),
        ("regions", replace(GOOD, regions=("North",)), "'North'"),
        ("source_type", replace(GOOD, source_type=4), "4"),
        ("citation", replace(GOOD, citation="x" * (LONGEST_CITATION + 1)), "501 given"),
        ("citation", replace(GOOD, citation="a\0b"), "printable"),
    ],
)
def test_a_contradiction_is_named_by_its_field(field: str, rule: Rule, words: str) -> None:
    problems = problems_of(rule)
    assert list(problems) == [f"rule.{field}"]
    assert words in problems[f"rule.{field}"]


def test_all_contradictions_are_named_at_once_also_those_of_the_message() -> None:
    message = rule_pb2.Rule(rule_id="A", parameter=1, statistic=5, severity_level=7, citation="\n", source_type=9)  # type: ignore[arg-type]
    message.on_delay_duration.CopyFrom(Duration(seconds=1, nanos=-1))
    message.off_delay_duration.CopyFrom(Duration(seconds=-1))
    with pytest.raises(InvalidArgument) as caught:
        checked(*take_rule(message))
    names = ("statistic", "on_delay_duration", "rule_id", "lower_limit", "off_delay_duration", "severity_level")
    assert set(caught.value.fields) == {f"rule.{name}" for name in (*names, "source_type", "citation")}
    assert caught.value.reason == "STATISTIC_NOT_SUPPORTED"
    assert "STATISTIC_PERCENTILE" in caught.value.message


@pytest.mark.parametrize(
    "rule",
    [
        replace(GOOD, lower_limit=5.0),
        replace(GOOD, upper_limit=1e9),
        replace(GOOD, upper_limit=None, lower_limit=-1e9),
        replace(GOOD, lower_limit=4.0, deadband=0.5),
        replace(GOOD, lower_limit=0.1, upper_limit=0.5, deadband=0.2),
        replace(GOOD, statistic=Statistic.RATE, lower_limit=-2.0, upper_limit=-1.0),
        replace(GOOD, deadband=1000.0),
        replace(GOOD, on_delay_s=0.5, off_delay_s=30 * 86_400.0),
        replace(GOOD, sensor_ids=tuple(range(1, 1001)), source_type=3, citation="§ 1 µ", disabled=True),
    ],
)
def test_what_is_only_odd_is_kept(rule: Rule) -> None:
    assert checked(rule) == rule


def test_severity_is_three_unless_given_and_places_are_kept_once_in_order() -> None:
    kept = checked(replace(GOOD, severity_level=0, sensor_ids=(3, 1, 3), site_ids=("b", "a", "b"), regions=("z", "y")))
    assert (kept.severity_level, kept.sensor_ids, kept.site_ids, kept.regions) == (3, (1, 3), ("a", "b"), ("y", "z"))


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 99])
def test_other_statistics_are_named_as_not_supported_yet(number: int) -> None:
    message = rule_pb2.Rule(rule_id="r", parameter=1, upper_limit=1, statistic=number)  # type: ignore[arg-type]
    message.window_duration.seconds = 86_400
    with pytest.raises(InvalidArgument) as caught:
        read_rule(message)
    assert (caught.value.reason, list(caught.value.fields)) == ("STATISTIC_NOT_SUPPORTED", ["rule.statistic"])
    known = number in rule_pb2.Statistic.values()
    name = rule_pb2.Statistic.Name(number) if known else "statistic 99"  # type: ignore[arg-type]
    assert f"{name} is not supported yet" in caught.value.message


@pytest.mark.parametrize("statistic", [0, 1, 7])
def test_a_value_and_a_rate_have_no_window(statistic: int) -> None:
    message = rule_pb2.Rule(rule_id="r", parameter=1, upper_limit=1, percentile=5, window_kind=2, statistic=statistic)  # type: ignore[arg-type]
    message.window_duration.seconds = 0
    with pytest.raises(InvalidArgument) as caught:
        read_rule(message)
    assert set(caught.value.fields) == {"rule.window_duration", "rule.window_kind", "rule.percentile"}
    assert caught.value.reason == "INVALID_ARGUMENT"


def test_impossible_times_are_named() -> None:
    message = write_rule(GOOD)
    message.effective_time.seconds = 10**15
    message.on_delay_duration.seconds = 10**15
    with pytest.raises(InvalidArgument) as caught:
        read_rule(message)
    assert set(caught.value.fields) == {"rule.effective_time", "rule.on_delay_duration"}


_limits = st.floats(-1e6, 1e6, width=32)
_rules = st.builds(
    Rule,
    rule_id=st.from_regex(r"\A[a-z0-9._-]{1,64}\Z"),
    parameter=st.integers(1, 8),
    statistic=st.sampled_from(Statistic),
    lower_limit=st.none() | _limits,
    upper_limit=st.none() | _limits,
    deadband=st.floats(0, 1e6),
    on_delay_s=st.integers(0, 30 * 86_400 * 10**6).map(lambda us: us / 1e6),
    off_delay_s=st.integers(0, 30 * 86_400 * 10**6).map(lambda us: us / 1e6),
    severity_level=st.integers(0, 5),
    sensor_ids=st.lists(st.integers(1, 2**63 - 1), max_size=3).map(tuple),
    site_ids=st.lists(st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z"), max_size=3).map(tuple),
    regions=st.lists(st.from_regex(r"\A[a-z0-9_-]{1,20}\Z"), max_size=3).map(tuple),
    source_type=st.integers(0, 3),
    citation=st.text(max_size=20).filter(str.isprintable),
    disabled=st.booleans(),
    version=st.integers(0, 2**62),
    effective_us=st.integers(0, 4 * 10**15),
    etag=st.text(st.characters(codec="ascii"), max_size=5),
)


@given(_rules)
def test_a_rule_comes_back_from_its_message_as_it_was(rule: Rule) -> None:
    assert read_rule(write_rule(rule)) == rule
    assert write_rules_context([rule]) == write_rules_context([read_rule(write_rule(rule))])


@given(_rules)
def test_every_rule_is_kept_as_it_was_told_or_refused_by_name(rule: Rule) -> None:
    kept, problems = rule, dict[str, str]()
    try:
        kept = checked(rule)
    except InvalidArgument as error:
        problems = error.fields
    assert set(problems) <= {"rule.lower_limit", "rule.deadband"}
    assert (kept.lower_limit, kept.upper_limit, kept.deadband) == (rule.lower_limit, rule.upper_limit, rule.deadband)
    assert problems or checked(kept) == kept
