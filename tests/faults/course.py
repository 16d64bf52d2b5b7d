"""What the gateways of a fault run send: a pure function of the seed, so that afterwards it is known what must be there.

Each tick is a minute of measured time. In the water of a run: pulses that are contaminations, values beyond a rule's limit, and
nothing else that is a condition. In what is sent of it: resends, other values for the same keys, readings that must be refused,
two ticks in the wrong order, and a backlog beside the live lane.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.builders import TYPICAL
from water.parameter import BY_COLUMN, PARAMETERS
from water.readings import Readings, concatenate

TICK_US = 60_000_000
BACKLOG_TICKS = 2_000  # of measured time before the first live tick
BACKLOG_AT_ONCE = 4
LIMIT_NTU = 50.0
BEYOND_NTU = 80.0
MEASURED = ("ph", "turbidity_ntu", "temperature_c", "dissolved_oxygen_mg_l", "conductivity_us_cm")
_ROWS = np.array([BY_COLUMN[name].number - 1 for name in MEASURED])
_PH, _TURBIDITY, _TEMPERATURE, _OXYGEN, _CONDUCTIVITY = _ROWS
_RESOLUTION = np.array([[parameter.resolution] for parameter in PARAMETERS])
_PULSES = range(6)
_LIMITS = range(6, 10)
_HISTORY = 10
_DISORDERED = range(30, 38)
_CONTESTED = range(38, 40)
SENSORS = 40


@dataclass(frozen=True, slots=True)
class Course:
    """One run: its `number` makes region, gateways and sensors its own, so that runs may follow each other in one deployment."""

    seed: int
    number: int
    start_us: int
    gateways: int = 6

    @property
    def region(self) -> str:
        """Of all gateways of the run."""
        return f"fault-{self.number}"

    @property
    def rule_id(self) -> str:
        """The rule that allows LIMIT_NTU in the region."""
        return f"fault-{self.number}-turbidity"

    def gateway_id(self, gateway: int) -> str:
        """Names of the gateways, from 0."""
        return f"{self.region}-{gateway}"

    def first_sensor(self, gateway: int) -> int:
        """Of the ids of a gateway's sensors; no two gateways of any run have one in common."""
        return 1_000_000_000 + self.number * 1_000_000 + gateway * 1_000

    @property
    def sensor_range(self) -> tuple[int, int]:
        """The first id of the run and the first beyond it."""
        first = 1_000_000_000 + self.number * 1_000_000
        return first, first + 1_000_000

    def ordered(self, sensor_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these come in one lane and in order: their flags do not depend on how they were cut into batches."""
        within = sensor_id % 1_000
        return within < _DISORDERED.start

    def is_contested(self, sensor_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these have other values for the same keys in the other lane: which one is stored is a race."""
        within = sensor_id % 1_000
        return (within >= _CONTESTED.start) & (within < _CONTESTED.stop)

    def conditions(self, ticks: int) -> tuple[set[str], set[str]]:
        """Ids of the conditions that begin within so many ticks, live and of the backlog."""
        live, history = set(), set()
        for gateway in range(self.gateways):
            first = self.first_sensor(gateway)
            live |= {f"contamination/{first + which}" for which in _PULSES if _pulse_begin(gateway, which) + 3 < ticks}
            live |= {f"limit/{self.rule_id}/{first + which}" for which in _LIMITS if _limit_begin(gateway, which) < ticks}
            if ticks * BACKLOG_AT_ONCE > 30:
                history.add(f"contamination/{first + _HISTORY}")
        return live, history

    def live(self, gateway: int, tick: int) -> Readings:
        """What a gateway hands over on its live lane at a tick, in this order."""
        chance = np.random.default_rng((self.seed, self.number, gateway, tick))
        parts = [self._in_their_order(gateway, tick)]
        if tick > 20 and chance.random() < 0.15:
            parts.append(self.water(gateway, tick - int(chance.integers(3, 20)), range(_DISORDERED.start)))
        if tick > 20 and chance.random() < 0.10:
            before = self.water(gateway, tick - int(chance.integers(3, 20)), range(20, 23))
            parts.append(Readings(before.sensor_id, before.measured_at_us, before.values + np.float32(1)))
        if tick % 20 == 7:
            wrong = self.water(gateway, tick, range(3))
            nothing = np.full((len(PARAMETERS), 3), np.nan, np.float32)
            parts.append(Readings(np.array([0, -1, -2]), wrong.measured_at_us, wrong.values))
            parts.append(Readings(wrong.sensor_id + 900, wrong.measured_at_us, nothing))
        return concatenate(parts)

    def backlog(self, gateway: int, tick: int) -> Readings:
        """What it hands over on its backfill lane at the same time: some of the past, and other values for contested keys."""
        past = [
            self.water(gateway, number - BACKLOG_TICKS, range(_HISTORY, _HISTORY + 4))
            for number in range(tick * BACKLOG_AT_ONCE, min((tick + 1) * BACKLOG_AT_ONCE, BACKLOG_TICKS))
        ]
        contested = self.water(gateway, tick, _CONTESTED)
        return concatenate([*past, Readings(contested.sensor_id, contested.measured_at_us, contested.values + np.float32(2))])

    def water(self, gateway: int, tick: int, which: range) -> Readings:
        """What these sensors measure at a tick."""
        chance = np.random.default_rng((self.seed, self.number, gateway, tick + BACKLOG_TICKS))
        noise = chance.standard_normal((len(PARAMETERS), SENSORS)) * 0.002
        numbers = np.array(which)
        values = np.full((len(PARAMETERS), len(which)), np.nan)
        values[_ROWS] = np.array(TYPICAL)[_ROWS, None] * (1 + noise[_ROWS][:, numbers])
        strength = np.array([_strength(tick, gateway, number) for number in which])
        values[_CONDUCTIVITY] *= 1 + 0.6 * strength
        values[_TURBIDITY] += 12 * strength
        values[_OXYGEN] *= 1 - 0.35 * strength
        values[_PH] -= 0.6 * strength
        values[_TURBIDITY, [_is_beyond(tick, gateway, number) for number in which]] = BEYOND_NTU
        values[_CONDUCTIVITY, (numbers >= 20) & (numbers < 25)] = np.nan  # sondes without that probe
        rounded = np.asarray(np.round(values / _RESOLUTION) * _RESOLUTION, np.float32)
        at_us = np.full(len(which), self.start_us + tick * TICK_US, np.int64)
        return Readings(self.first_sensor(gateway) + numbers.astype(np.int64), at_us, rounded)

    def _in_their_order(self, gateway: int, tick: int) -> Readings:
        """All sensors; of the disordered ones odd ticks come before the even ones that they follow."""
        swapped = self.water(gateway, tick + 1 if tick % 2 == 0 else tick - 1, _DISORDERED)
        return concatenate([self.water(gateway, tick, range(_DISORDERED.start)), swapped, self.water(gateway, tick, _CONTESTED)])


def _pulse_begin(gateway: int, which: int) -> int:
    return 12 + 16 * (which - _PULSES.start) + gateway


def _limit_begin(gateway: int, which: int) -> int:
    return 8 + 20 * (which - _LIMITS.start) + gateway


def _strength(tick: int, gateway: int, which: int) -> float:
    """0 to 1: a pulse rises in five ticks, stays for ten and falls in ten."""
    if which in _PULSES and tick >= 0:
        since = tick - _pulse_begin(gateway, which)
    elif which == _HISTORY and tick < 0:
        since = tick + BACKLOG_TICKS - 15
    else:
        return 0.0
    return float(np.interp(since, (0, 5, 15, 25), (0, 1, 1, 0)))


def _is_beyond(tick: int, gateway: int, which: int) -> bool:
    return which in _LIMITS and 0 <= tick - _limit_begin(gateway, which) < 10
