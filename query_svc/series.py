"""What are the statistics of each group, parameter and bucket, whichever way and on however many shards they were computed?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """One entry per group (its place in the chunk), parameter number and bucket that has data, in this order. `percentiles`
    has one row per percentile asked for."""

    group: NDArray[np.int64]
    parameter: NDArray[np.int64]
    bucket_start_us: NDArray[np.int64]
    count: NDArray[np.int64]
    sum: NDArray[np.float64]
    min: NDArray[np.float32]
    max: NDArray[np.float32]
    percentiles: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One parameter of one group over time: columns of one entry per bucket that has data. `key`: a sensor id, or the name of
    a site or region; empty for all."""

    key: int | str
    parameter: int
    bucket_start_us: NDArray[np.int64]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    min: NDArray[np.float32]
    max: NDArray[np.float32]
    percentiles: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.bucket_start_us)


def cut_series(found: Statistics, keys: Sequence[int | str]) -> Iterator[Series]:
    """The series of each group and parameter that has data, in this order. `keys`: the group at each place."""
    for start, end in runs(found.group, found.parameter):
        run = slice(start, end)
        yield Series(
            keys[int(found.group[start])],
            int(found.parameter[start]),
            found.bucket_start_us[run],
            found.count[run],
            found.sum[run] / found.count[run],
            found.min[run],
            found.max[run],
            found.percentiles[:, run],
        )


def run_starts(*sorted_keys: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where runs of equal keys begin."""
    if not len(sorted_keys[0]):
        return np.empty(0, np.intp)
    changed = np.zeros(len(sorted_keys[0]), np.bool_)
    changed[0] = True
    for key in sorted_keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def runs(*sorted_keys: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Start and end of each run of equal keys."""
    edges = [*run_starts(*sorted_keys).tolist(), len(sorted_keys[0])]
    return pairwise(edges)
