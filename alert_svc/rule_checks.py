"""Can this rule be kept, or does it contradict itself?"""

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mesh.errors import InvalidArgument
from water.parameter import BY_NUMBER
from water.rules import Rule

RULE_ID = re.compile(r"[a-z0-9._-]{1,64}")  # a part of the ids of conditions
_SITE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REGION = re.compile(r"[a-z0-9_-]{1,20}")
SOURCE_TYPES = (0, 1, 2, 3)
USUAL_SEVERITY, MOST_SEVERE = 3, 5
LONGEST_DELAY_S = 30 * 86_400
LONGEST_CITATION = 500
MOST_PLACES = 1_000


def checked(rule: Rule, problems: Mapping[str, str] | None = None) -> Rule:
    """The rule as it is to be stored: severity 3 unless given, places once each and in order. Raises InvalidArgument that names
    every problem by its field path, and with them those found before (`problems`), of which one of `rule.statistic` makes the
    reason STATISTIC_NOT_SUPPORTED. Whether the sites exist is not checked here. Limits that no value ever meets are fine."""
    found = dict(problems or {})
    rule = replace(rule, severity_level=rule.severity_level or USUAL_SEVERITY)
    if not RULE_ID.fullmatch(rule.rule_id):
        found["rule.rule_id"] = f"{rule.rule_id[:80]!r}: 1 to 64 characters of a-z 0-9 . _ -"
    if rule.parameter not in BY_NUMBER:
        found["rule.parameter"] = f"{rule.parameter} is not one of {', '.join(map(str, BY_NUMBER))}"
    _check_limits(rule, found)
    for name, delay_s in (("on_delay", rule.on_delay_s), ("off_delay", rule.off_delay_s)):
        if not 0 <= delay_s <= LONGEST_DELAY_S:
            found.setdefault(f"rule.{name}_duration", f"{delay_s:g} s: 0 up to {LONGEST_DELAY_S} s (30 days)")
    if not 1 <= rule.severity_level <= MOST_SEVERE:
        found["rule.severity_level"] = f"{rule.severity_level}: 1 to {MOST_SEVERE}, or 0 for {USUAL_SEVERITY}"
    _check_places(rule, found)
    if len(rule.citation) > LONGEST_CITATION or not rule.citation.isprintable():
        found["rule.citation"] = f"at most {LONGEST_CITATION} printable characters, {len(rule.citation)} given"
    if found:
        listed = "; ".join(f"{field}: {problem}" for field, problem in found.items())
        reason = "STATISTIC_NOT_SUPPORTED" if "rule.statistic" in found else ""
        raise InvalidArgument(listed, reason=reason, fields=found)
    return replace(
        rule,
        sensor_ids=tuple(sorted(set(rule.sensor_ids))),
        site_ids=tuple(sorted(set(rule.site_ids))),
        regions=tuple(sorted(set(rule.regions))),
    )


def _check_limits(rule: Rule, found: dict[str, str]) -> None:
    """As 32-bit floats, as values are and as they are compared."""
    lower, upper, deadband = rule.lower_limit, rule.upper_limit, rule.deadband
    given = {"rule.lower_limit": lower, "rule.upper_limit": upper, "rule.deadband": deadband}
    wrong = {path: f"{value:g} is no number that a reading can have" for path, value in given.items() if not _finite(value)}
    if lower is None and upper is None:
        wrong["rule.lower_limit"] = "no limit at all: give lower_limit, upper_limit or both"
    if deadband < 0:
        wrong["rule.deadband"] = f"{deadband:g} is negative: 0, or how far inside the limit it clears"
    found |= wrong
    if wrong:
        return
    if lower is not None and upper is not None and lower > upper:
        found["rule.lower_limit"] = f"{lower:g} is above upper_limit {upper:g}: nothing is allowed; swap them?"
        return
    clears_from = -np.inf if lower is None else _rounded(lower + deadband)
    clears_to = np.inf if upper is None else _rounded(upper - deadband)
    if clears_from > clears_to or clears_from == np.inf or clears_to == -np.inf:
        span = "" if lower is None or upper is None else f": at most {(upper - lower) / 2:g}, half of what is allowed"
        found["rule.deadband"] = f"{deadband:g} is so much that nothing clears{span}"


def _check_places(rule: Rule, found: dict[str, str]) -> None:
    wrong: dict[str, list[int] | list[str]] = {
        "sensor_ids": [sensor for sensor in rule.sensor_ids if not 0 < sensor < 2**63],
        "site_ids": [site for site in rule.site_ids if not _SITE_ID.fullmatch(site)],
        "regions": [region for region in rule.regions if not _REGION.fullmatch(region)],
    }
    right = {
        "sensor_ids": "sensor ids are positive",
        "site_ids": "1 to 64 characters of a-z A-Z 0-9 . _ -",
        "regions": "1 to 20 characters of a-z 0-9 _ -",
    }
    for name, ids in wrong.items():
        count = len(getattr(rule, name))
        if count > MOST_PLACES:
            found[f"rule.{name}"] = f"{count} given, at most {MOST_PLACES}: make another rule for the rest"
        elif ids:
            found[f"rule.{name}"] = f"{str(ids[0])[:80]!r}: {right[name]}"
    if rule.source_type not in SOURCE_TYPES:
        found["rule.source_type"] = f"{rule.source_type} is not municipal (1), industrial (2), natural (3) or all (0)"


def _finite(value: float | None) -> bool:
    return value is None or bool(np.isfinite(_rounded(value)))


def _rounded(value: float) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(value)
