"""Trouble: alarms that are not in their normal state, and what moved fast a moment ago. Sparse, so that it grows with trouble
and not with sensors times rules."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS

NEVER_US = -(2**62)  # further away from any time than any limit
DETECTOR = ""  # stands for a rule's id in the detector's alarms; no rule has it
_WIDTH = len(PARAMETERS)
_NONE = np.empty(0, np.intp)

ALARM = np.dtype(
    [
        ("sensor_id", "<i8"),
        ("rule", "<i4"),  # place in the list of names
        ("parameter", "u1"),  # what the rule judged when this began: its parameter's place in PARAMETERS
        ("statistic", "u1"),  # and its Statistic; 0: the detector
        ("active", "?"),  # raised, and not cleared yet
        ("severity", "u1"),  # as told last
        ("began_us", "<i8"),  # of the episode, while active
        ("pending_us", "<i8"),  # since when the readings speak against `active`; NEVER_US: they do not
        ("shown_us", "<i8"),  # newest reading that was beyond the limit
        ("told", "<f4", (3, _WIDTH)),  # evidence told so far: value, expected, score by parameter; score 0: none
    ]
)
"""One alarm that is active, or about to change."""

FAST = np.dtype([("sensor_id", "<i8"), ("time_us", "<i8", (_WIDTH,)), ("seen", "<f4", (3, _WIDTH))])
"""By parameter, when a sensor's value last moved too fast (NEVER_US: not lately), and value, expected, score of then."""


class Rows:
    """Rows of one dtype by `sensor_id`, ascending. Finding is a binary search; entering and leaving copy all rows."""

    __slots__ = ("sensor_id", "table")

    def __init__(self, table: NDArray[np.void]) -> None:
        self.table = table
        self.sensor_id = np.ascontiguousarray(table["sensor_id"])

    def __len__(self) -> int:
        return len(self.table)

    def find(self, sensors: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(rows, index of each one's sensor) of these distinct, ascending sensors."""
        if not len(self.table):
            return _NONE, _NONE
        low = np.searchsorted(self.sensor_id, sensors)
        counts = np.searchsorted(self.sensor_id, sensors, side="right") - low
        return np.repeat(low, counts) + ramps(counts), np.repeat(np.arange(len(sensors)), counts)

    def settle(self, rows: NDArray[np.intp], content: NDArray[np.void], stays: NDArray[np.bool_]) -> None:
        """Puts the content in these rows' place (-1: a row of its own), and takes those out that do not stay."""
        new = rows < 0
        kept = stays & ~new
        self.table[rows[kept]] = content[kept]
        leave, enter = rows[~stays & ~new], content[stays & new]
        if len(leave) or len(enter):
            table, enter = np.delete(self.table, leave), enter[np.argsort(enter["sensor_id"], kind="stable")]
            table = np.insert(table, np.searchsorted(table["sensor_id"], enter["sensor_id"], side="right"), enter)
            self.table, self.sensor_id = table, np.ascontiguousarray(table["sensor_id"])


class Troubles:
    """All of one State. `names`: ids of rules by number; the first is DETECTOR."""

    __slots__ = ("_number", "alarms", "fast", "names")

    def __init__(self) -> None:
        self.alarms = Rows(np.empty(0, ALARM))
        self.fast = Rows(np.empty(0, FAST))
        self.names = [DETECTOR]
        self._number = {DETECTOR: 0}

    @property
    def size_bytes(self) -> int:
        """Memory of all rows."""
        return self.alarms.table.nbytes + self.fast.table.nbytes

    def number_of(self, rule_id: str) -> int:
        """The number that stands for this rule in `alarms`."""
        if rule_id not in self._number:
            self._number[rule_id] = len(self.names)
            self.names.append(rule_id)
        return self._number[rule_id]

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Everything; equal troubles give equal columns, whatever the order in which they came."""
        alarms = self.alarms.table.copy()
        used = sorted({self.names[number] for number in np.unique(alarms["rule"]).tolist()} | {DETECTOR})
        place = {rule_id: number for number, rule_id in enumerate(used)}
        alarms["rule"] = np.array([place.get(name, -1) for name in self.names], np.int32)[alarms["rule"]]
        alarms = alarms[np.lexsort((alarms["rule"], alarms["sensor_id"]))]
        return {"rule_id": np.array(used), "alarms": alarms, "fast": self.fast.table}

    @staticmethod
    def of(columns: Mapping[str, NDArray[np.generic]]) -> "Troubles":
        """The inverse. Raises ValueError when they cannot be its columns, KeyError when one is missing."""
        names = columns["rule_id"]
        if names.ndim != 1 or names.dtype.kind != "U" or names.tolist() != sorted({DETECTOR, *names.tolist()}):
            raise ValueError(f"rule_id is {names.dtype}{list(names.shape)}, should be texts in order, the first one empty")
        troubles = Troubles()
        for name in names.tolist():
            troubles.number_of(name)
        troubles.alarms = Rows(_checked("alarms", columns["alarms"], ALARM))
        troubles.fast = Rows(_checked("fast", columns["fast"], FAST))
        numbers = troubles.alarms.table["rule"]
        if ((numbers < 0) | (numbers >= len(troubles.names))).any():
            raise ValueError(f"alarms name rules beyond the {len(troubles.names)} in rule_id")
        return troubles


def ramps(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """0, 1, ... up to each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _checked(name: str, table: NDArray[np.generic], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    if table.dtype != dtype or table.ndim != 1:
        raise ValueError(f"{name} is {table.dtype}{list(table.shape)}, should be {dtype}[n]")
    rows = table.astype(dtype)
    if (np.diff(rows["sensor_id"]) < 0).any():
        raise ValueError(f"{name} must be in the order of sensor_id")
    return rows
