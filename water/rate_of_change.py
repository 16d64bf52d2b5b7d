"""Rate of change: how fast a value moved away from the one before it.

QARTOD leaves the time base to the operator. Here it is the time between the two values, but at least LEAST_BASE_US: over ten
seconds the last digit of any probe moves faster than water ever does.
"""

import numpy as np
from numpy.typing import NDArray

from water.flags import RANK_GOOD
from water.history import Past
from water.limits import LEAST_BASE_US, Limits


def rate_of_change(past: Past, limits: Limits) -> NDArray[np.uint8]:
    """Ranks: SUSPECT above `rate_suspect_per_hour`, NOT_EVALUATED without a value before it, in reach."""
    change = np.abs(past.value - past.previous)
    ranks: NDArray[np.uint8] = RANK_GOOD - np.isnan(change).view(np.uint8)
    ranks += change > past.each(limits.rate_suspect_per_us) * np.maximum(past.elapsed_us, LEAST_BASE_US)
    return ranks
