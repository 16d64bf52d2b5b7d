"""A piece: readings in the order of sensor and time, and what screening found out about them, for who judges them further."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from water.history import Past


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """n readings of distinct `sensors`, ascending: those of sensor s are `counts[s]` from `starts[s]` on.

    Per sensor: `found`, where it stands among the described, `newest_us` before this piece, its gap limit. `fresh`: newer than
    all before of its sensor. `enters`, shape (8, n): this value counts; `past` has what counts, in the order of its True entries.
    """

    sensors: NDArray[np.int64]
    starts: NDArray[np.intp]
    counts: NDArray[np.intp]
    found: NDArray[np.intp]
    newest_us: NDArray[np.int64]
    gap_us: NDArray[np.int64]
    time_us: NDArray[np.int64]
    values: NDArray[np.float32]
    fresh: NDArray[np.bool_]
    enters: NDArray[np.bool_]
    past: Past


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """All readings of some sensors of a piece, a run for each: run p is of sensor[p], an index, and has the rows offsets[p] up to
    offsets[p + 1]; of each row, its run and its reading in the piece."""

    sensor: NDArray[np.intp]
    offsets: NDArray[np.intp]
    run: NDArray[np.intp]
    reading: NDArray[np.intp]


def runs_of(piece: Piece, sensors: NDArray[np.intp]) -> Runs:
    """A run for each of these indexes of sensors, which may repeat."""
    counts = piece.counts[sensors]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    run = np.repeat(np.arange(len(sensors)), counts)
    return Runs(sensors, offsets, run, np.arange(offsets[-1]) + (piece.starts[sensors] - offsets[:-1])[run])
