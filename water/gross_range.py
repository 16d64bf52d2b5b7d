"""Missing value and gross range: what a value shows by itself (QARTOD tests 2 and 4: "missing", "gross range")."""

import numpy as np
from numpy.typing import NDArray

from water.flags import RANK_FAIL, RANK_GOOD, RANK_MISSING
from water.limits import Limits
from water.parameter import SENTINELS


def gross_range(values: NDArray[np.float32], limits: Limits) -> NDArray[np.uint8]:
    """Ranks of float32 values of shape (8, n): MISSING for NaN, FAIL outside the fail range and for a logger's sentinel,
    SUSPECT outside the suspect range, else GOOD. The ends of a range belong to it."""
    doubtful = (values < limits.suspect_low[:, None]) | (values > limits.suspect_high[:, None])
    wrong = (values < limits.fail_low[:, None]) | (values > limits.fail_high[:, None])
    ranks = doubtful.view(np.uint8) + wrong.view(np.uint8)
    ranks += RANK_GOOD
    for row in np.flatnonzero(limits.fail_low <= max(SENTINELS)).tolist():  # elsewhere a sentinel is out of range anyway
        for sentinel in SENTINELS:
            ranks[row, values[row] == sentinel] = RANK_FAIL
    ranks[np.isnan(values)] = RANK_MISSING
    return ranks
