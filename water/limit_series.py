"""Limit series: a sensor's readings as its rules see them: beyond the limit, back inside by the deadband, or in between."""

import numpy as np
from numpy.typing import NDArray

from water.alarm import Series
from water.parameter import PARAMETERS
from water.piece import Piece, Runs
from water.rulebook import Rulebook

_MOST_SCORE = 1e6


def limit_series(
    piece: Piece, judged: NDArray[np.float32], gap: NDArray[np.bool_], book: Rulebook, runs: Runs, rules: NDArray[np.intp]
) -> Series:
    """Run p is what rule number rules[p] says of the readings of sensor runs.sensor[p].

    `judged`: what limits are compared with, by slot and reading, NaN where nothing is; `gap`: where history starts anew, by
    parameter and reading. The score is 1 at the limit and grows by 1 with each limit's worth beyond it (a limit of 0: by 1 a
    unit), so that a value of twice an upper limit scores 2; it ends at a million.
    """
    rule = rules[runs.run]
    value = judged[book.slot[rule], runs.reading]
    low, high = book.low[rule], book.high[rule]
    beyond = (value < low) | (value > high)
    back = (value >= book.low_back[rule]) & (value <= book.high_back[rule])

    at = np.flatnonzero(beyond)
    limit = np.where(value[at] > high[at], high[at], low[at]).astype(np.float64)
    excess = np.abs(value[at] - limit) / np.where(limit == 0, 1, np.abs(limit))
    score = np.zeros(len(value), np.float32)
    score[at] = np.minimum(1 + excess, _MOST_SCORE)

    def evidence(row: int) -> NDArray[np.float32]:
        told = np.zeros((3, len(PARAMETERS)), np.float32)
        expected = high[row] if value[row] > high[row] else low[row]
        told[:, book.parameter[rule[row]]] = value[row], expected, score[row]
        return told

    return Series(
        runs.offsets,
        piece.time_us[runs.reading],
        beyond.astype(np.int8) - back,
        gap[book.parameter[rule], runs.reading],
        score,
        book.severity[rule],
        np.left_shift(1, book.parameter[rule]).astype(np.uint8),
        evidence,
    )
