"""A rule: what is allowed of one parameter, where, and how it is judged (ISA-18.2: limit, deadband, on and off delay)."""

from dataclasses import dataclass
from enum import IntEnum


class Statistic(IntEnum):
    """Statistics of the contract that are judged, same numbers (kept by a test)."""

    VALUE = 1
    RATE = 7


@dataclass(frozen=True, slots=True)
class Rule:
    """Limits are in the parameter's unit, per hour for RATE (where a fall is negative); the ends of the allowed range belong to
    it. Empty `sensor_ids`, `site_ids`, `regions` and `source_type` 0 do not restrict; what is given must all hold.

    `version`, `effective_us`: of the rule set in which the rule took this form. `etag` changes at every update.
    """

    rule_id: str
    parameter: int
    statistic: Statistic = Statistic.VALUE
    lower_limit: float | None = None
    upper_limit: float | None = None
    deadband: float = 0.0
    on_delay_s: float = 0.0
    off_delay_s: float = 0.0
    severity_level: int = 3
    sensor_ids: tuple[int, ...] = ()
    site_ids: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    source_type: int = 0
    citation: str = ""
    disabled: bool = False
    version: int = 0
    effective_us: int = 0
    etag: str = ""
