"""QARTOD primary flags: their numbers, how a reading's flags are packed, and how results of several tests roll up.

Source: QARTOD "Manual for the Use of Real-Time Oceanographic Data Quality Control Flags" (IOOS, version 1.2, 2020).
"""

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS

GOOD, NOT_EVALUATED, SUSPECT, FAIL, MISSING = 1, 2, 3, 4, 9

# While several tests judge a value, their results are ranks: the greatest wins, so that rolling up is a maximum.
RANK_NOT_EVALUATED, RANK_GOOD, RANK_SUSPECT, RANK_FAIL, RANK_MISSING = 1, 2, 3, 4, 5

_PAIRS = len(PARAMETERS) // 2  # two flags an octet: PARAMETERS are even in number, and numbered from 1 in their order
_OF_RANK = np.array([0, NOT_EVALUATED, GOOD, SUSPECT, FAIL, MISSING], np.uint8)
_RANK = np.zeros(10, np.uint8)
_RANK[_OF_RANK] = np.arange(6)


def pack(flags: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """uint8 flags of shape (8, n), rows in the order of PARAMETERS -> uint64 of shape (n,); bits 4*(p-1) on for parameter p."""
    octets = np.zeros((flags.shape[1], 8), np.uint8)
    octets[:, :_PAIRS] = (flags[0::2] | flags[1::2] << 4).T
    return octets.view("<u8").ravel()


def unpack(packed: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The inverse of `pack`."""
    octets = packed.astype("<u8").view(np.uint8).reshape(-1, 8).T[:_PAIRS]
    flags = np.empty((2 * _PAIRS, len(packed)), np.uint8)
    flags[0::2], flags[1::2] = octets & 15, octets >> 4
    return flags


def worst(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rolls two tests' results up, element by element: MISSING, FAIL, SUSPECT, GOOD, NOT_EVALUATED, in this order. So a value
    is GOOD when the tests that ran were passed, and NOT_EVALUATED only when none could run."""
    return of_rank(np.maximum(_RANK[left], _RANK[right]))


def of_rank(ranks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The flag of each rank."""
    return np.take(_OF_RANK, ranks)
