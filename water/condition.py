"""A condition: something about the water or a sensor that needs a person, as one episode of it is known at one moment."""

from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """ConditionKind of the contract, same numbers (kept by a test)."""

    CONTAMINATION = 1
    LIMIT = 2
    FORECAST = 3
    MAINTENANCE = 4
    SILENCE = 5


class Change(IntEnum):
    """ConditionChange of the contract, same numbers (kept by a test)."""

    RAISED = 1
    UPDATED = 2
    CLEARED = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason to believe it: `parameter` is a Parameter number; `score`: how strong, as the ratio to the limit.

    `test`: what showed it. "limit": a value beyond the limit `expected`; "rate": likewise, both per hour; "fast change": a value
    that moved too fast away from `expected`, a value of some minutes before. Other tests, other words.
    """

    parameter: int
    value: float
    expected: float
    score: float
    test: str


@dataclass(frozen=True, slots=True)
class Condition:
    """Full state, so that repeats and a changed order do no harm: an episode is (condition_id, began_us), its end is final.

    Times are measured times, microseconds since 1970-01-01T00:00:00Z; `ended_us` is None while it lasts, `measured_us` is that
    of the newest reading that showed it. `sensor_id` is 0 where it is about a site or gateway, `site_id` is empty where unknown.
    """

    condition_id: str
    began_us: int
    ended_us: int | None
    change: Change
    sensor_id: int
    site_id: str
    kind: Kind
    rule_id: str
    severity_level: int
    measured_us: int
    evidence: tuple[Evidence, ...] = ()
    contaminant_type: str = ""
