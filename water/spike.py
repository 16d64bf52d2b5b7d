"""Spike: a value far from the mean of the two before it.

QARTOD's spike test compares with the values before and after; online there is no value after, so this is its causal form. It
also marks the first value of a step, and may mark the return from a spike.
"""

import numpy as np
from numpy.typing import NDArray

from water.flags import RANK_GOOD
from water.history import Past
from water.limits import Limits


def spike(past: Past, limits: Limits) -> NDArray[np.uint8]:
    """Ranks: FAIL above `spike_fail`, SUSPECT above `spike_suspect`, NOT_EVALUATED without two values before it, in reach."""
    size = np.abs(past.value - (past.previous + past.before) / np.float32(2))
    ranks: NDArray[np.uint8] = RANK_GOOD - np.isnan(size).view(np.uint8)
    ranks += size > past.each(limits.spike_suspect)
    ranks += size > past.each(limits.spike_fail)
    return ranks
