"""Rule and RulesContext messages <-> water.rules."""

from collections.abc import Iterable
from typing import NamedTuple

from waterquality.v1 import log_pb2, rule_pb2

from mesh.codec.times import read_duration, read_time, write_duration, write_time
from mesh.errors import InvalidArgument
from water.rules import Rule, Statistic

NOT_SUPPORTED = "STATISTIC_NOT_SUPPORTED"


class Taken(NamedTuple):
    """A rule as far as it can be held here, and by field path what of its message cannot."""

    rule: Rule
    problems: dict[str, str]


def read_rule(message: rule_pb2.Rule) -> Rule:
    """As it came; whether it makes sense is for others to say. Raises InvalidArgument naming every field that cannot be held:
    impossible durations and times, windows, statistics that are not judged yet (STATISTIC_NOT_SUPPORTED)."""
    rule, problems = take_rule(message)
    if problems:
        listed = "; ".join(f"{path}: {problem}" for path, problem in problems.items())
        raise InvalidArgument(listed, reason=NOT_SUPPORTED if "rule.statistic" in problems else "", fields=problems)
    return rule


def take_rule(message: rule_pb2.Rule) -> Taken:
    """The same for who wants to name all that is wrong with a rule at once: never raises. What cannot be held is as if it
    had not been given."""
    problems: dict[str, str] = {}
    statistic = _statistic(message, problems)
    if statistic is not None:
        _refuse_windows(message, statistic, problems)
    rule = Rule(
        rule_id=message.rule_id,
        parameter=message.parameter,
        statistic=statistic or Statistic.VALUE,
        lower_limit=message.lower_limit if message.HasField("lower_limit") else None,
        upper_limit=message.upper_limit if message.HasField("upper_limit") else None,
        deadband=message.deadband,
        on_delay_s=_seconds(message, "on_delay_duration", problems),
        off_delay_s=_seconds(message, "off_delay_duration", problems),
        severity_level=message.severity_level,
        sensor_ids=tuple(message.sensor_ids),
        site_ids=tuple(message.site_ids),
        regions=tuple(message.regions),
        source_type=message.source_type,
        citation=message.citation,
        disabled=message.disabled,
        version=message.version,
        effective_us=_effective_us(message, problems),
        etag=message.etag,
    )
    return Taken(rule, problems)


def write_rule(rule: Rule) -> rule_pb2.Rule:
    """The message of a rule."""
    return rule_pb2.Rule(
        rule_id=rule.rule_id,
        parameter=rule.parameter,  # type: ignore[arg-type]
        statistic=int(rule.statistic),  # type: ignore[arg-type]
        lower_limit=rule.lower_limit,
        upper_limit=rule.upper_limit,
        deadband=rule.deadband,
        on_delay_duration=write_duration(round(rule.on_delay_s * 1e6)),
        off_delay_duration=write_duration(round(rule.off_delay_s * 1e6)),
        severity_level=rule.severity_level,
        sensor_ids=rule.sensor_ids,
        site_ids=rule.site_ids,
        regions=rule.regions,
        source_type=rule.source_type,  # type: ignore[arg-type]
        citation=rule.citation,
        disabled=rule.disabled,
        version=rule.version,
        effective_time=write_time(rule.effective_us),
        etag=rule.etag,
    )


def write_rules_context(rules: Iterable[Rule]) -> bytes:
    """The RulesContext of these, in the order given; the same bytes for the same rules."""
    return log_pb2.RulesContext(rules=map(write_rule, rules)).SerializeToString(deterministic=True)


def _statistic(message: rule_pb2.Rule, problems: dict[str, str]) -> Statistic | None:
    try:
        return Statistic(message.statistic or Statistic.VALUE)
    except ValueError:
        name = _name(rule_pb2.Statistic, message.statistic)
        judged = ", ".join(rule_pb2.Statistic.Name(int(each)) for each in Statistic)  # type: ignore[arg-type]
        problems["rule.statistic"] = f"{name} is not supported yet: give one of {judged}"
        return None


def _refuse_windows(message: rule_pb2.Rule, statistic: Statistic, problems: dict[str, str]) -> None:
    given = {
        "window_duration": message.HasField("window_duration"),
        "window_kind": message.window_kind != rule_pb2.WINDOW_KIND_UNSPECIFIED,
        "percentile": message.percentile != 0,
    }
    for name, is_given in given.items():
        if is_given:
            problems[f"rule.{name}"] = f"STATISTIC_{statistic.name} has none: leave it out"


def _seconds(message: rule_pb2.Rule, name: str, problems: dict[str, str]) -> float:
    try:
        return (read_duration(message, name, f"rule.{name}") or 0) / 1e6
    except InvalidArgument as error:
        problems.update(error.fields)
        return 0.0


def _effective_us(message: rule_pb2.Rule, problems: dict[str, str]) -> int:
    try:
        return read_time(message, "effective_time", "rule.effective_time") or 0
    except InvalidArgument as error:
        problems.update(error.fields)
        return 0


def _name(enum: type[rule_pb2.Statistic], number: int) -> str:
    return enum.Name(number) if number in enum.values() else f"statistic {number}"  # type: ignore[arg-type]
