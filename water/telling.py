"""Telling: episodes of alarms -> conditions, as everybody else knows them."""

import numpy as np

from water.alarm import EXPECTED, SCORE, VALUE, Episode
from water.condition import Condition, Evidence, Kind
from water.fast_change import RULE_ID
from water.parameter import PARAMETERS
from water.piece import Piece
from water.rulebook import DETECTOR_STATISTIC, Rulebook
from water.rules import Statistic

UNKNOWN_CONTAMINANT = "unknown"
_TESTS = {DETECTOR_STATISTIC: "fast change", Statistic.VALUE: "limit", Statistic.RATE: "rate"}


class Telling:
    """The conditions of one piece, at most `most`."""

    def __init__(self, piece: Piece, book: Rulebook, most: int) -> None:
        self._piece = piece
        self._described = book.described
        self._most = most
        self.conditions: list[Condition] = []

    @property
    def is_full(self) -> bool:
        """Nothing more may be told."""
        return len(self.conditions) >= self._most

    def tell(self, sensor: int, rule_id: str, statistic: int, measured_us: int, episode: Episode) -> None:
        """`sensor`: its index in the piece; `statistic`: of the rule, or DETECTOR_STATISTIC; `measured_us`: of the reading that
        tells it."""
        piece, detected = self._piece, statistic == DETECTOR_STATISTIC
        sensor_id = int(piece.sensors[sensor])
        place = self._described.places[self._described.place(piece.found[sensor : sensor + 1])[0]]
        self.conditions.append(
            Condition(
                f"contamination/{sensor_id}" if detected else f"limit/{rule_id}/{sensor_id}",
                episode.began_us,
                episode.ended_us,
                episode.change,
                sensor_id,
                place.site_id,
                Kind.CONTAMINATION if detected else Kind.LIMIT,
                RULE_ID if detected else rule_id,
                episode.severity,
                measured_us,
                _evidence(episode, _TESTS[statistic]),
                UNKNOWN_CONTAMINANT if detected else "",
            )
        )


def _evidence(episode: Episode, test: str) -> tuple[Evidence, ...]:
    """The strongest first."""
    value, expected, score = (episode.told[row].tolist() for row in (VALUE, EXPECTED, SCORE))
    numbers = sorted(np.flatnonzero(episode.told[SCORE]).tolist(), key=lambda number: (-score[number], number))
    return tuple(Evidence(PARAMETERS[number].number, value[number], expected[number], score[number], test) for number in numbers)
