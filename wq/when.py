"""How times and durations are written on the command line, and how a time reads relative to now."""

import re
from datetime import UTC, datetime, timedelta

import typer
from google.protobuf.timestamp_pb2 import Timestamp

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
TIME_HELP = "ISO time (UTC unless it has an offset), a date, or how long ago: 15m, 2h, 7d."


def read_seconds(text: str, option: str) -> float:
    """ "90s", "15m", "1h", "1.5d", "1w". Raises typer.BadParameter (a usage error)."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise typer.BadParameter(f"{text!r} is no duration; write 500ms, 30s, 15m, 1h or 7d", param_hint=option)
    return float(found[1]) * _SECONDS[found[2]]


def read_time(text: str, option: str, now: datetime | None = None) -> Timestamp:
    """ "2026-01-31", "2026-01-31T12:00", "2026-01-31T12:00:00+02:00", "now" or "2h" (ago). Raises typer.BadParameter."""
    now = now or datetime.now(UTC)
    text = text.strip()
    if text == "now":
        moment = now
    elif _DURATION.fullmatch(text):
        moment = now - timedelta(seconds=read_seconds(text, option))
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is no time; {TIME_HELP}", param_hint=option) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    result = Timestamp()
    result.FromMicroseconds((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
    return result


def iso(us: int) -> str:
    """Microseconds since 1970 as RFC 3339, with a fraction only where there is one."""
    stamp = Timestamp()
    stamp.FromMicroseconds(us)
    return stamp.ToJsonString()


def ago(us: int, now_us: int) -> str:
    """ "12 s ago", "3 h ago", "in 5 m"."""
    seconds = (now_us - us) / 1e6
    text = span(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def span(seconds: float) -> str:
    """A duration in the largest unit that gives at least one: "340 ms", "12 s", "3 h"."""
    for unit, size in (("y", 31_557_600), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size * (2 if unit in "yd" else 1):
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds * 1000:.0f} ms"
