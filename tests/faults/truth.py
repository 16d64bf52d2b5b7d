"""What must come of readings that were sent in a known order: rows by one plain rule, flags and conditions by one plain fold."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.faults.course import LIMIT_NTU, Course
from tests.flows.reading_back import first_of_each_key
from water.condition import Condition
from water.parameter import BY_COLUMN
from water.readings import Readings, concatenate, empty
from water.rulebook import Rulebook
from water.rules import Rule
from water.screen import Settings, screen
from water.state import State

LIVE, BACKFILL = False, True
Key = tuple[int, int]


@dataclass(slots=True)
class Sent:
    """Everything that gateways handed over, by gateway and lane, each in its order."""

    lanes: dict[tuple[str, bool], list[Readings]] = field(default_factory=lambda: defaultdict(list))

    def note(self, gateway_id: str, lane: bool, readings: Readings) -> None:
        """These come next on that lane."""
        self.lanes[gateway_id, lane].append(readings)

    @property
    def count(self) -> int:
        """Readings, each as often as it was handed over."""
        return sum(len(each) for parts in self.lanes.values() for each in parts)

    def of_lane(self, lane: bool) -> Readings:
        """All of the lane that can be stored, gateway after gateway."""
        return concatenate([storable(each) for (_, of), parts in self.lanes.items() if of == lane for each in parts] or [empty()])


@dataclass(frozen=True, slots=True)
class Truth:
    """`rows`: by sensor and time, of each key what was sent first, live before backfill, with flags where `flags_known`.
    `others`: of each key that was sent with several values all of them, as bytes. `alarms`: condition id -> (began_us,
    historical) of what must be an alert."""

    rows: Readings
    flags: NDArray[np.uint64]
    flags_known: NDArray[np.bool_]
    others: dict[Key, set[bytes]]
    alarms: dict[str, tuple[int, bool]]
    accepted: int


def storable(readings: Readings) -> Readings:
    """Without those that accept refuses for what they are; those refused for their clock are never noted as sent."""
    return readings.take(np.flatnonzero((readings.sensor_id > 0) & ~np.isnan(readings.values).all(axis=0)))


def the_rule(course: Course) -> Rule:
    """What is allowed in the region of a run."""
    parameter = BY_COLUMN["turbidity_ntu"].number
    return Rule(course.rule_id, parameter, upper_limit=LIMIT_NTU, deadband=5.0, regions=(course.region,), severity_level=4)


def truth_of(sent: Sent, course: Course) -> Truth:
    """What must be stored, archived and told of all that was acknowledged, at rest."""
    whole = concatenate([sent.of_lane(LIVE), sent.of_lane(BACKFILL)])
    rows = first_of_each_key(whole)
    flags, alarms = _folded(sent, course)
    known = course.ordered(rows.sensor_id)
    of_rows = np.zeros(len(rows), np.uint64)
    for index in np.flatnonzero(known).tolist():
        of_rows[index] = flags[int(rows.sensor_id[index]), int(rows.measured_at_us[index])]
    return Truth(rows, of_rows, known, _others(whole), alarms, len(whole))


def _folded(sent: Sent, course: Course) -> tuple[dict[Key, int], dict[str, tuple[int, bool]]]:
    """Flags of the first of each key, and alarms, by one fold per gateway and lane."""
    settings = Settings(rulebook=Rulebook([the_rule(course)]))
    flags: dict[Key, int] = {}
    alarms: dict[str, tuple[int, bool]] = {}
    for (_, lane), parts in sorted(sent.lanes.items(), key=lambda item: item[0][1]):  # live first: it counts
        state = State()
        for part in parts:
            readings = storable(part)
            if not len(readings):
                continue
            screening = screen(state, readings, settings, course.region)
            keys = zip(readings.sensor_id.tolist(), readings.measured_at_us.tolist(), strict=True)
            for key, flag in zip(keys, screening.flags.tolist(), strict=True):
                flags.setdefault(key, flag)
            _note(alarms, screening.conditions, lane)
    return flags, alarms


def _note(alarms: dict[str, tuple[int, bool]], conditions: Iterable[Condition], lane: bool) -> None:
    """The first episode of each condition: all later ones belong to its alert while it is open, which nobody closes."""
    for condition in conditions:
        alarms.setdefault(condition.condition_id, (condition.began_us, lane))


def _others(whole: Readings) -> dict[Key, set[bytes]]:
    """All values of the keys that have several."""
    order = np.lexsort((whole.measured_at_us, whole.sensor_id))
    ordered = whole.take(order)
    same = (np.diff(ordered.sensor_id) == 0) & (np.diff(ordered.measured_at_us) == 0)
    repeated = np.append(False, same) | np.append(same, False)
    found: dict[Key, set[bytes]] = defaultdict(set)
    for index in np.flatnonzero(repeated).tolist():
        key = int(ordered.sensor_id[index]), int(ordered.measured_at_us[index])
        found[key].add(as_bytes(ordered.values[:, index]))
    return {key: values for key, values in found.items() if len(values) > 1}


def as_bytes(values: NDArray[np.float32]) -> bytes:
    """The values of one reading, with every NaN alike, so that equal bytes are equal values."""
    return np.where(np.isnan(values), np.float32(np.nan), values).tobytes()
