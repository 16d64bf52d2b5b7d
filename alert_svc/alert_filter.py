"""Which alerts does a caller ask for: is the question one that makes sense, and does an alert fit it?"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_

from alert_svc.alert_rows import at
from alert_svc.tables import ALERTS
from mesh.codec.alerts import Alert, State
from mesh.errors import InvalidArgument
from mesh.tokens import fingerprint
from water.condition import Kind

MOST_SENSORS = 1_000
MOST_SITES = 1_000
MOST_REGIONS = 100
LONGEST_SITE_ID = 64
OPEN = frozenset(State) - {State.UNSPECIFIED, State.RESOLVED}
_REGION = re.compile(r"[a-z0-9_-]{1,20}")


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """As AlertFilter of the contract: what is empty, 0 or None does not restrict, but no states means the open ones."""

    sensor_ids: frozenset[int] = frozenset()
    site_ids: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    kinds: frozenset[int] = frozenset()
    states: frozenset[int] = frozenset()
    min_severity_level: int = 0
    start_us: int | None = None
    end_us: int | None = None

    @property
    def wanted_states(self) -> Collection[int]:
        """The states that fit."""
        return self.states or OPEN

    def fits(self, alert: Alert) -> bool:
        """Whether the alert is one of those, as `conditions` say it in SQL."""
        return (
            alert.state in self.wanted_states
            and (not self.sensor_ids or alert.sensor_id in self.sensor_ids)
            and (not self.site_ids or alert.site_id in self.site_ids)
            and (not self.regions or alert.region in self.regions)
            and (not self.kinds or alert.kind in self.kinds)
            and alert.severity_level >= self.min_severity_level
            and (self.start_us is None or alert.raised_us >= self.start_us)
            and (self.end_us is None or alert.raised_us < self.end_us)
        )

    def conditions(self) -> ColumnElement[bool]:
        """For a WHERE on ALERTS."""
        columns = ALERTS.c
        asked: list[ColumnElement[bool]] = [columns.severity_level >= self.min_severity_level]
        # Said this way the partial index of open alerts can be used.
        asked.append(columns.state.in_(sorted(self.states)) if self.states else columns.state != int(State.RESOLVED))
        for column, values in (
            (columns.sensor_id, self.sensor_ids),
            (columns.site_id, self.site_ids),
            (columns.region, self.regions),
            (columns.kind, self.kinds),
        ):
            if values:
                asked.append(column.in_(sorted(values)))
        if self.start_us is not None:
            asked.append(columns.timestamp >= at(self.start_us))
        if self.end_us is not None:
            asked.append(columns.timestamp < at(self.end_us))
        return and_(*asked)

    def fingerprint(self) -> str:
        """The same for the same question."""
        parts: list[Any] = [sorted(part) for part in (self.sensor_ids, self.site_ids, self.regions, self.kinds, self.states)]
        return fingerprint(repr([*parts, self.min_severity_level, self.start_us, self.end_us]).encode())


def check_filter(asked: AlertFilter) -> None:
    """Raises InvalidArgument (INVALID_FILTER), naming every field at fault."""
    problems: dict[str, str] = {}
    for field, given, most in (
        ("sensor_ids", asked.sensor_ids, MOST_SENSORS),
        ("site_ids", asked.site_ids, MOST_SITES),
        ("regions", asked.regions, MOST_REGIONS),
    ):
        if len(given) > most:
            problems[f"filter.{field}"] = f"{len(given)} given, at most {most} in one question"
    _check_each(
        "sensor_ids", (sensor for sensor in asked.sensor_ids if sensor < 0), "is no sensor id: they are positive", problems
    )
    _check_each(
        "site_ids",
        (site for site in asked.site_ids if not (1 <= len(site) <= LONGEST_SITE_ID and site.isprintable())),
        f"is no site id: 1 to {LONGEST_SITE_ID} printable characters",
        problems,
    )
    _check_each(
        "regions",
        (region for region in asked.regions if not _REGION.fullmatch(region)),
        "is no region: 1 to 20 characters of a-z 0-9 _ -",
        problems,
    )
    _check_each("kinds", asked.kinds - set(Kind), f"is not one of {', '.join(str(int(kind)) for kind in Kind)}", problems)
    _check_each("states", asked.states - (set(State) - {State.UNSPECIFIED}), "is not one of 1 to 7", problems)
    if not 0 <= asked.min_severity_level <= 5:
        problems["filter.min_severity_level"] = f"{asked.min_severity_level} does not exist: 1 to 5, or 0 for any"
    if asked.start_us is not None and asked.end_us is not None and asked.start_us >= asked.end_us:
        problems["filter.end_time"] = "not after start_time: nothing can lie between them"
    if problems:
        listed = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
        raise InvalidArgument(listed, reason="INVALID_FILTER", fields=problems)


def _check_each(field: str, wrong: Iterable[int | str], problem: str, problems: dict[str, str]) -> None:
    for value in sorted(wrong, key=str)[:1]:
        shown = repr(value[:80]) if isinstance(value, str) else str(value)
        problems.setdefault(f"filter.{field}", f"{shown} {problem}")
