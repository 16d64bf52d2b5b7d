"""QARTOD primary flags: their numbers, how a reading's flags are packed, and how results of several tests roll up.

Source: QARTOD "Manual for the Use of Real-Time Oceanographic Data Quality Control Flags" (IOOS, version 1.2, 2020).
"""

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS

GOOD, NOT_EVALUATED, SUSPECT, FAIL, MISSING = 1, 2, 3, 4, 9

_SHIFTS = np.array([4 * (parameter.number - 1) for parameter in PARAMETERS], np.uint64)
_RANK = np.zeros(10, np.uint8)
_RANK[[NOT_EVALUATED, GOOD, SUSPECT, FAIL, MISSING]] = [1, 2, 3, 4, 5]
_OF_RANK = np.array([0, NOT_EVALUATED, GOOD, SUSPECT, FAIL, MISSING], np.uint8)


def pack(flags: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """uint8 flags of shape (8, n), rows in the order of PARAMETERS -> uint64 of shape (n,)."""
    packed = np.zeros(flags.shape[1], np.uint64)
    for row, shift in zip(flags, _SHIFTS, strict=True):
        packed |= row.astype(np.uint64) << shift
    return packed


def unpack(packed: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The inverse of `pack`."""
    return ((packed[None, :] >> _SHIFTS[:, None]) & np.uint64(15)).astype(np.uint8)


def worst(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rolls two tests' results up, element by element: MISSING, FAIL, SUSPECT, GOOD, NOT_EVALUATED, in this order. So a value
    is GOOD when the tests that ran were passed, and NOT_EVALUATED only when none could run."""
    return _OF_RANK[np.maximum(_RANK[left], _RANK[right])]
