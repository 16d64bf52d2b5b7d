"""Conditions once more, reading by reading and slowly: what the vectorised fold must agree with.

Shares nothing with water/conditions.py but the table of parameters, the rules and what a condition is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.water.reference import _gross_range
from water.condition import Change, Kind
from water.described import Description
from water.flags import FAIL, MISSING
from water.parameter import PARAMETERS
from water.readings import Readings
from water.rules import Rule, Statistic

SECOND_US = 1_000_000
GAP_US = 3 * 3600 * SECOND_US
Told = tuple[int, str, Change, int, int | None, Kind, int, tuple[int, ...]]
"""measured_us, condition_id, change, began_us, ended_us, kind, severity, parameters of the evidence, the strongest first."""


@dataclass
class Cell:
    """One parameter of one sensor: its last value's time, and the first value of each span since the last gap."""

    time_us: int | None = None
    spans: list[tuple[int, int, np.float32]] = field(default_factory=list)


@dataclass
class Machine:
    """One alarm; `judges`: the parameter and statistic of its rule."""

    judges: tuple[int, int]
    active: bool = False
    began_us: int = 0
    pending_us: int | None = None
    shown_us: int = 0
    severity: int = 0
    told: dict[int, float] = field(default_factory=dict)


@dataclass
class Seen:
    """What one rule makes of one reading."""

    sign: int
    gap: bool = False
    severity: int = 0
    scores: dict[int, float] = field(default_factory=dict)


class Reference:
    """Judges batch by batch; rules and descriptions may be replaced between two."""

    def __init__(self) -> None:
        self.rules: Sequence[Rule] = ()
        self.descriptions: dict[int, Description] = {}
        self._newest: dict[int, int] = {}
        self._cells: dict[tuple[int, int], Cell] = {}
        self._machines: dict[tuple[int, str], Machine] = {}
        self._fast: dict[int, dict[int, tuple[int, float]]] = {}

    def screen(self, readings: Readings, region: str) -> list[Told]:
        """What one batch tells, in order."""
        told: list[Told] = []
        rows = zip(readings.sensor_id.tolist(), readings.measured_at_us.tolist(), readings.values.T, strict=True)
        for sensor, time_us, values in sorted(rows, key=lambda row: row[:2]):
            if sensor not in self._newest or time_us > self._newest[sensor]:
                told += self._reading(sensor, time_us, values, region)
                self._newest[sensor] = time_us
        return sorted(told, key=lambda one: one[:2])

    def _reading(self, sensor: int, time_us: int, values: np.ndarray, region: str) -> list[Told]:
        description = self.descriptions.get(sensor, Description(sensor))
        rules = {rule.rule_id: rule for rule in self.rules if _is_for(rule, description, region)}
        told = self._end_gone(sensor, time_us, rules, description.in_service)
        value: dict[int, np.float32] = {}
        rate: dict[int, np.float32] = {}
        gap: dict[int, bool] = {}
        for parameter, one in zip(PARAMETERS, values, strict=True):
            number = parameter.number
            if _gross_range(parameter, one) not in (FAIL, MISSING):
                value[number] = one
                rate[number], gap[number] = self._enter(sensor, number, time_us, one, description.gap_us)
        seen: dict[str, Seen] = {}
        for rule in rules.values():
            if rule.parameter in value:
                judged = rate if rule.statistic == Statistic.RATE else value
                seen[rule.rule_id] = _limit(rule, judged[rule.parameter], gap[rule.parameter])
        if value and description.in_service:
            silent = sensor in self._newest and time_us - self._newest[sensor] > description.gap_us
            seen[""] = self._detect(sensor, time_us, rate, silent)
        elif not description.in_service:
            self._fast.pop(sensor, None)
        for rule_id, what in seen.items():
            told += self._take(sensor, rule_id, rules.get(rule_id), time_us, what)
        return told

    def _enter(self, sensor: int, number: int, time_us: int, value: np.float32, gap_us: int) -> tuple[np.float32, bool]:
        """(rate, whether history starts anew) of a value that counts."""
        cell = self._cells.setdefault((sensor, number), Cell())
        gap = cell.time_us is not None and time_us - cell.time_us > gap_us
        if gap:
            cell.spans.clear()
        cell.time_us = time_us
        span = time_us // (300 * SECOND_US)
        if not cell.spans or cell.spans[-1][0] != span:
            cell.spans = [*cell.spans[-1:], (span, time_us, value)]
        (_, anchor_us, anchor), (_, first_us, _) = cell.spans[0], cell.spans[-1]
        if time_us == anchor_us:
            return np.float32(np.nan), gap
        age_s = np.float32((first_us - anchor_us) / 1e6) + np.float32((time_us - first_us) / 1e6)
        return (value - anchor) / (max(age_s, np.float32(600)) / np.float32(3600)), gap

    def _detect(self, sensor: int, time_us: int, rate: dict[int, np.float32], gap: bool) -> Seen:
        fast = self._fast.setdefault(sensor, {})
        for number, one in rate.items():
            score = float(abs(one) / np.float32(PARAMETERS[number - 1].rate_suspect_per_hour))
            if score > 1:
                fast[number] = (time_us, score)
        scores = {number: score for number, (at_us, score) in fast.items() if time_us - at_us <= 600 * SECOND_US}
        return Seen(1 if len(scores) >= 2 else -1, gap, 4 if len(scores) == 2 else 5, scores)

    def _take(self, sensor: int, rule_id: str, rule: Rule | None, time_us: int, seen: Seen) -> list[Told]:
        judges = (rule.parameter, int(rule.statistic)) if rule else (0, 0)
        on_s, off_s = (rule.on_delay_s, rule.off_delay_s) if rule else (0.0, 1800.0)
        machine = self._machines.setdefault((sensor, rule_id), Machine(judges))
        if seen.gap:
            machine.pending_us = None
        if seen.sign > 0:
            machine.shown_us = time_us
        if seen.sign == 0:
            return []
        if (seen.sign > 0) == machine.active:
            machine.pending_us = None
            more = machine.active and (
                max(seen.scores.values()) >= 1.5 * max(machine.told.values())
                or seen.severity > machine.severity
                or not seen.scores.keys() <= machine.told.keys()
            )
            return [self._tell(sensor, rule_id, machine, Change.UPDATED, time_us, seen)] if more else []
        machine.pending_us = time_us if machine.pending_us is None else machine.pending_us
        if time_us - machine.pending_us < (off_s if machine.active else on_s) * SECOND_US:
            return []
        if not machine.active:
            machine.active, machine.began_us, machine.pending_us = True, machine.pending_us, None
            return [self._tell(sensor, rule_id, machine, Change.RAISED, time_us, seen)]
        cleared = self._told(sensor, rule_id, machine, Change.CLEARED, time_us, machine.pending_us)
        del self._machines[sensor, rule_id]
        return [cleared]

    def _end_gone(self, sensor: int, time_us: int, rules: dict[str, Rule], in_service: bool) -> list[Told]:
        told = []
        for (of, rule_id), machine in list(self._machines.items()):
            rule = rules.get(rule_id)
            judges = (rule.parameter, int(rule.statistic)) if rule else None
            if of == sensor and (judges != machine.judges if rule_id else not in_service):
                if machine.active:
                    told.append(self._told(sensor, rule_id, machine, Change.CLEARED, time_us, machine.shown_us))
                del self._machines[of, rule_id]
        return told

    def _tell(self, sensor: int, rule_id: str, machine: Machine, change: Change, time_us: int, seen: Seen) -> Told:
        machine.severity = max(machine.severity, seen.severity)
        machine.told = {
            number: max(seen.scores.get(number, 0.0), machine.told.get(number, 0.0))
            for number in seen.scores.keys() | machine.told.keys()
        }
        return self._told(sensor, rule_id, machine, change, time_us, None)

    def _told(self, sensor: int, rule_id: str, machine: Machine, change: Change, time_us: int, ended_us: int | None) -> Told:
        kind = Kind.LIMIT if rule_id else Kind.CONTAMINATION
        condition_id = f"limit/{rule_id}/{sensor}" if rule_id else f"contamination/{sensor}"
        parameters = tuple(sorted(machine.told, key=lambda number: (-machine.told[number], number)))
        return time_us, condition_id, change, machine.began_us, ended_us, kind, machine.severity, parameters


def _limit(rule: Rule, value: np.float32, gap: bool) -> Seen:
    low, high = rule.lower_limit, rule.upper_limit
    score = 0.0
    if low is not None and value < np.float32(low):
        score = 1 + abs(float(value) - float(np.float32(low))) / (abs(float(np.float32(low))) or 1)
    if high is not None and value > np.float32(high):
        score = 1 + abs(float(value) - float(np.float32(high))) / (abs(float(np.float32(high))) or 1)
    if score:
        return Seen(1, gap, rule.severity_level, {rule.parameter: float(np.float32(score))})
    far_enough = low is None or value >= np.float32(low + rule.deadband)
    low_enough = high is None or value <= np.float32(high - rule.deadband)
    return Seen(-1 if far_enough and low_enough and not np.isnan(value) else 0, gap)


def _is_for(rule: Rule, description: Description, region: str) -> bool:
    return (
        not rule.disabled
        and description.in_service
        and (not rule.sensor_ids or description.sensor_id in rule.sensor_ids)
        and (not rule.site_ids or description.place.site_id in rule.site_ids)
        and (not rule.regions or region in rule.regions)
        and rule.source_type in (0, description.place.source_type)
    )
