"""Fast change, the built-in detector: two or more parameters of one sensor that moved too fast, within ten minutes of each other.

Contamination moves several parameters at once; a fault of one probe, or a tide, usually one. It is plain on purpose.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from water.alarm import SCORE, Series
from water.limits import SECOND_US
from water.parameter import PARAMETERS
from water.piece import Piece, Runs
from water.trouble import NEVER_US

RULE_ID = "multi-parameter-rate"
TOGETHER_US = 600 * SECOND_US
_TWO_SEVERITY, _MORE_SEVERITY = 4, 5
_WIDTH = len(PARAMETERS)
_T = TypeVar("_T", bound=np.generic)


def fast_change(
    piece: Piece, score: NDArray[np.float32], anchor: NDArray[np.float32], runs: Runs, past: NDArray[np.void]
) -> tuple[Series, NDArray[np.void]]:
    """Run p: what the detector says of the readings of sensor runs.sensor[p]; and what is to be remembered of each of these
    sensors, where `past` is what was remembered, both of dtype FAST.

    `score`: each value's rate as the ratio to its limit, and `anchor`, what it was measured against, by parameter and reading.
    A reading is beyond the limit while two parameters were too fast within TOGETHER_US before it, and back inside otherwise; one
    without any value that counts says nothing. Evidence is what each of them showed last.
    """
    time_us, ratio = piece.time_us[runs.reading], score[:, runs.reading]
    seen = np.stack((piece.values[:, runs.reading], anchor[:, runs.reading], ratio))
    last, here = _last(ratio > 1, runs)

    def latest(of_rows: NDArray[_T], of_past: NDArray[_T]) -> NDArray[_T]:
        return np.where(here, np.take_along_axis(of_rows, last, axis=1), of_past[runs.run].T)

    last_us = latest(np.broadcast_to(time_us, last.shape), past["time_us"])
    lately = last_us >= time_us - TOGETHER_US
    last_score = np.where(lately, latest(ratio, past["seen"][:, SCORE]), np.float32(0))
    count = lately.sum(axis=0)
    says = np.logical_or.reduce(piece.enters, axis=0)[runs.reading]

    def shown(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        of_past = past["seen"][runs.run[rows]].transpose(1, 2, 0)
        told = np.where(here[:, rows], seen[:, np.arange(_WIDTH)[:, None], last[:, rows]], of_past)
        return np.where(lately[:, rows], told, np.float32(0))

    kept, rows = past.copy(), _last_of_each(says, runs)
    kept["time_us"][runs.run[rows]] = np.where(lately[:, rows], last_us[:, rows], NEVER_US).T
    kept["seen"][runs.run[rows]] = shown(rows).transpose(2, 0, 1)
    series = Series(
        runs.offsets,
        time_us,
        np.where(says, np.where(count >= 2, 1, -1), 0).astype(np.int8),
        _gaps(piece, runs) & says,
        last_score.max(axis=0),
        np.where(count > 2, _MORE_SEVERITY, _TWO_SEVERITY).astype(np.uint8),
        np.packbits(lately, axis=0, bitorder="little")[0],
        lambda row: shown(np.array([row]))[..., 0],
    )
    return series, kept


def _last(fast: NDArray[np.bool_], runs: Runs) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(row, True) where each parameter was too fast last, up to each row; (any, False) where that was before its run."""
    rows = np.arange(fast.shape[1])
    begins = np.zeros(len(rows), np.bool_)
    begins[runs.offsets[:-1]] = True
    last = np.maximum.accumulate(np.where(fast, 2 * rows + 1, np.where(begins, 2 * rows, 0)), axis=1)
    return last >> 1, (last & 1).astype(np.bool_)


def _last_of_each(says: NDArray[np.bool_], runs: Runs) -> NDArray[np.intp]:
    """The last row that says something, of each run that has one."""
    rows = np.flatnonzero(says)
    run = runs.run[rows]
    is_last = np.ones(len(rows), np.bool_)
    is_last[:-1] = run[1:] != run[:-1]
    return rows[is_last]


def _gaps(piece: Piece, runs: Runs) -> NDArray[np.bool_]:
    """Rows before which the sensor gave nothing for longer than its gap limit."""
    first = np.zeros(len(piece.time_us), np.bool_)
    first[piece.starts] = True
    newest_us = np.repeat(piece.newest_us, piece.counts)
    before_us = np.where(first, newest_us, np.maximum(newest_us, np.append(NEVER_US, piece.time_us[:-1])))
    return (piece.time_us - before_us > np.repeat(piece.gap_us, piece.counts))[runs.reading]
