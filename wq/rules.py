"""The commands `wq rules ...`: what is allowed, where, and how it is judged."""

from enum import StrEnum
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from waterquality.v1 import rule_pb2 as pb
from waterquality.v1.catalog_pb2 import SourceType
from waterquality.v1.rule_pb2_grpc import RuleServiceStub

from mesh.errors import NotFound
from water.parameter import PARAMETERS
from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, Target, parameter_number
from wq.plain import plain, print_json
from wq.show import show
from wq.show_rules import rules_table
from wq.when import read_seconds

rules = typer.Typer(no_args_is_help=True, help="Rules: what is allowed, where, and how it is judged.")

RuleId = Annotated[str, typer.Argument(metavar="RULE", help="Rule id, 1 to 64 characters of a-z 0-9 . _ -.")]


class Source(StrEnum):
    """What kind of water."""

    MUNICIPAL = "municipal"
    INDUSTRIAL = "industrial"
    NATURAL = "natural"
    ANY = "any"


class Judged(StrEnum):
    """What is compared with the limits; the server says which of them it judges."""

    VALUE = "value"
    RATE = "rate"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    PERCENTILE = "percentile"
    MEAN_OF_DAILY_MIN = "mean_of_daily_min"


_NAMES = ", ".join(each.column for each in PARAMETERS)
Measured = Annotated[str | None, typer.Option("--parameter", metavar="NAME", help=f"What is judged: {_NAMES}.")]
JudgedOption = Annotated[Judged | None, typer.Option("--statistic", help="Each value, or its change per hour (rate).")]
Window = Annotated[str | None, typer.Option(metavar="DURATION", help="Window of the statistic, for example 24h.")]
Percentile = Annotated[float | None, typer.Option(help="For the statistic percentile, 0 to 100.")]
Lower = Annotated[str | None, typer.Option(metavar="NUMBER", help="Allowed at or above this; none: no lower limit.")]
Upper = Annotated[str | None, typer.Option(metavar="NUMBER", help="Allowed at or below this; none: no upper limit.")]
Deadband = Annotated[float | None, typer.Option(help="How far inside the limit it must come to clear.")]
OnDelay = Annotated[str | None, typer.Option(metavar="DURATION", help="How long it must last to be raised: 0s, 60s, 15m.")]
OffDelay = Annotated[str | None, typer.Option(metavar="DURATION", help="How long it must be over to be cleared.")]
Severity = Annotated[int | None, typer.Option(help="Of its alerts, 1 to 5.")]
AtSensors = Annotated[list[int] | None, typer.Option("--sensor", help="Only this sensor; may be repeated.")]
AtSites = Annotated[list[str] | None, typer.Option("--site", help="Only this site; may be repeated.")]
InRegions = Annotated[list[str] | None, typer.Option("--region", help="Only this region; may be repeated.")]
SourceOption = Annotated[Source | None, typer.Option("--source", help="Only this kind of water.")]
Everywhere = Annotated[bool, typer.Option("--everywhere", help="First forget sensors, sites, regions and kind of water.")]
Citation = Annotated[str | None, typer.Option(help='Where the limit comes from, for example "40 CFR 141.551".')]
Enabled = Annotated[bool | None, typer.Option("--enable/--disable", help="Judge it, or not: then its open alerts are cleared.")]


@rules.command("ls")
@says_errors
def list_rules(target: Target = None, as_json: AsJson = False) -> None:
    """All rules. Example: wq rules ls"""
    with open_channel(find_target(target)) as channel:
        found, version = _all(channel)
    if as_json:
        print_json({"rules": [plain(rule) for rule in found], "next_page_token": "", "version": version})
    else:
        show(rules_table(found) if found else "no rules")


@rules.command("show")
@says_errors
def show_rule(rule_id: RuleId, target: Target = None, as_json: AsJson = False) -> None:
    """One rule. Example: wq rules show municipal-ph"""
    with open_channel(find_target(target)) as channel:
        rule = _find(channel, rule_id)
    if rule is None:
        raise NotFound(f"no rule {rule_id!r}: `wq rules ls` lists them", reason="RULE_NOT_FOUND")
    _show(rule, as_json)


@rules.command("set")
@says_errors
def set_rule(
    rule_id: RuleId,
    parameter: Measured = None,
    statistic: JudgedOption = None,
    window: Window = None,
    percentile: Percentile = None,
    lower: Lower = None,
    upper: Upper = None,
    deadband: Deadband = None,
    on_delay: OnDelay = None,
    off_delay: OffDelay = None,
    severity: Severity = None,
    sensor: AtSensors = None,
    site: AtSites = None,
    region: InRegions = None,
    source: SourceOption = None,
    everywhere: Everywhere = False,
    citation: Citation = None,
    enabled: Enabled = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """A new rule; of one that exists, what is given is changed and nothing else.

    Examples:

      wq rules set weir-turbidity --parameter turbidity --upper 5 --deadband 0.5 --on-delay 60s --site weir --severity 4

      wq rules set fast-ph --parameter ph --statistic rate --lower -1 --upper 1 --citation "permit 12/345"

      wq rules set municipal-ph --disable
    """
    given: dict[str, Any] = {
        "parameter": None if parameter is None else parameter_number(parameter),
        "statistic": None if statistic is None else pb.Statistic.Value(f"STATISTIC_{statistic.name}"),
        "window_duration": None if window is None else _duration(window, "--window"),
        "percentile": percentile,
        "lower_limit": None if lower is None else _limit(lower, "--lower"),
        "upper_limit": None if upper is None else _limit(upper, "--upper"),
        "deadband": deadband,
        "on_delay_duration": None if on_delay is None else _duration(on_delay, "--on-delay"),
        "off_delay_duration": None if off_delay is None else _duration(off_delay, "--off-delay"),
        "severity_level": severity,
        "sensor_ids": sensor,
        "site_ids": site,
        "regions": region,
        "source_type": None if source is None else _source_type(source),
        "citation": citation,
        "disabled": None if enabled is None else not enabled,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    with open_channel(find_target(target)) as channel:
        rule = _changed(_find(channel, rule_id), rule_id, changes, everywhere)
        answer = RuleServiceStub(channel).SetRule(pb.SetRuleRequest(rule=rule), timeout=CALL_S)
    _show(answer.rule, as_json)


@rules.command("rm")
@says_errors
def remove_rule(rule_id: RuleId, target: Target = None, as_json: AsJson = False) -> None:
    """Deletes a rule; its open alerts are cleared. Example: wq rules rm weir-turbidity"""
    with open_channel(find_target(target)) as channel:
        answer = RuleServiceStub(channel).DeleteRule(pb.DeleteRuleRequest(rule_id=rule_id), timeout=CALL_S)
    if as_json:
        print_json(plain(answer))
    else:
        show(f"rule {rule_id} is deleted")


def _all(channel: grpc.Channel) -> tuple[list[pb.Rule], int]:
    """Every rule, and the version of the rule set."""
    found: list[pb.Rule] = []
    request = pb.ListRulesRequest(page_size=1000)
    while True:
        page = RuleServiceStub(channel).ListRules(request, timeout=CALL_S)
        found.extend(page.rules)
        request.page_token = page.next_page_token
        if not request.page_token:
            return found, page.version


def _find(channel: grpc.Channel, rule_id: str) -> pb.Rule | None:
    return next((rule for rule in _all(channel)[0] if rule.rule_id == rule_id), None)


def _changed(current: pb.Rule | None, rule_id: str, changes: dict[str, Any], everywhere: bool) -> pb.Rule:
    """The rule to be set; the etag of the current one is in it, so that nobody's change is lost."""
    if current is None and "parameter" not in changes:
        raise typer.BadParameter(f"{rule_id!r} is a new rule and needs one", param_hint="--parameter")
    if not changes and not everywhere:
        raise typer.BadParameter("nothing to change: give at least one option, see --help")
    rule = pb.Rule(rule_id=rule_id) if current is None else current
    forgotten = ("sensor_ids", "site_ids", "regions", "source_type") if everywhere else ()
    for name in (*forgotten, *changes):
        rule.ClearField(name)
    rule.MergeFrom(pb.Rule(**{name: value for name, value in changes.items() if value is not _FORGET}))
    return rule


_FORGET = object()


def _limit(text: str, option: str) -> object:
    """The number, or _FORGET."""
    if text.strip().lower() == "none":
        return _FORGET
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number; write 6.5, -2 or none", param_hint=option) from None


def _duration(text: str, option: str) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(read_seconds(text, option) * 1e6))
    return duration


def _source_type(source: Source) -> SourceType.ValueType:
    return SourceType.Value("SOURCE_TYPE_UNSPECIFIED" if source is Source.ANY else f"SOURCE_TYPE_{source.name}")


def _show(rule: pb.Rule, as_json: bool) -> None:
    if as_json:
        print_json({"rule": plain(rule)})
    else:
        show(rules_table([rule]))
