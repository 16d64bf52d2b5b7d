"""How an alert reads in one line for people."""

import math

from alert_svc.words import moment
from mesh.codec.alerts import Alert
from water.condition import Evidence, Kind
from water.parameter import BY_NUMBER

MOST_REASONS = 3
LONGEST_TEXT = 80


def summary(alert: Alert) -> str:
    """What, where and why, for example "Contamination suspected at sensor 7 (site plant-1): pH 6.9, expected 7.5". One line."""
    what = _what(alert)
    reasons = [_reason(evidence) for evidence in alert.evidence[:MOST_REASONS]]
    if len(alert.evidence) > MOST_REASONS:
        reasons.append(f"and {len(alert.evidence) - MOST_REASONS} more")
    line = f"{what}: {'; '.join(reasons)}" if reasons else what
    return f"{line} (rule {_text(alert.rule_id)})" if alert.kind == Kind.LIMIT else line


def _what(alert: Alert) -> str:
    where = _where(alert)
    match alert.kind:
        case Kind.CONTAMINATION:
            hypothesis = "" if alert.contaminant_type == "unknown" else _text(alert.contaminant_type)
            likely = f", likely {hypothesis}," if hypothesis else ""
            return f"Contamination suspected{likely} at {where}"
        case Kind.LIMIT:
            return f"Limit broken at {where}"
        case Kind.FORECAST:
            return f"Limit will be broken at {where}, by forecast"
        case Kind.MAINTENANCE:
            return f"Maintenance needed at {where}"
        case Kind.SILENCE:
            return f"Silence: nothing from {where} since {moment(alert.raised_us)}"


def _where(alert: Alert) -> str:
    site = f"site {_text(alert.site_id)}" if alert.site_id else ""
    if alert.sensor_id:
        return f"sensor {alert.sensor_id}" + (f" ({site})" if site else "")
    return site or f"gateway {_text(alert.gateway_id)}"


def _reason(evidence: Evidence) -> str:
    parameter = BY_NUMBER.get(evidence.parameter)
    if parameter is None:
        return f"{_text(evidence.test)} {evidence.value:g}, expected {evidence.expected:g}"
    decimals = max(0, round(-math.log10(parameter.resolution)))
    rate = evidence.test == "rate"
    unit = " ".join(filter(None, [parameter.unit, "per hour" if rate else ""]))
    value, expected = (_quantity(number, decimals, unit) for number in (evidence.value, evidence.expected))
    if not expected:
        return f"{parameter.label} {value or 'not measured'}"
    word = "limit" if rate or evidence.test == "limit" else "expected"
    return f"{parameter.label} {'changes by ' if rate else ''}{value or 'not measured'}, {word} {expected}"


def _quantity(number: float, decimals: int, unit: str) -> str:
    """With its unit, without false digits; empty for what is no number."""
    if not math.isfinite(number):
        return ""
    digits = f"{number:.{decimals}f}" if abs(number) < 1e9 else f"{number:.6g}"
    digits = digits.rstrip("0").rstrip(".") if "." in digits and "e" not in digits else digits
    return f"{'0' if digits == '-0' else digits} {unit}".rstrip()


def _text(text: str) -> str:
    """On one line, and not endless."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 3]}..."
