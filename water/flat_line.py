"""Flat line: a value that has not changed for too long.

Unchanged means the very same float32 as the value before. Water is never that still: a probe that measures moves its last digit,
and one that has frozen, or whose logger repeats itself, does not. Comparing with a tolerance would call a slow drift flat.
"""

import numpy as np
from numpy.typing import NDArray

from water.flags import RANK_GOOD
from water.history import Past
from water.limits import Limits


def flat_line(past: Past, limits: Limits) -> NDArray[np.uint8]:
    """Ranks: FAIL from `flat_fail_s` on, SUSPECT from `flat_suspect_s` on, NOT_EVALUATED without a value before it, in reach."""
    ranks: NDArray[np.uint8] = RANK_GOOD - np.isnan(past.previous).view(np.uint8)
    if past.unchanged_us.max(initial=0) >= limits.flat_suspect_us.min():  # rare
        ranks += past.unchanged_us >= past.each(limits.flat_suspect_us)
        ranks += past.unchanged_us >= past.each(limits.flat_fail_us)
    return ranks
