"""Limits of the tests, one entry per parameter in the order of PARAMETERS, as arrays that a whole batch is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS, Parameter

HOUR_US = 3_600_000_000
SECOND_US = 1_000_000
LEAST_BASE_US = 600 * SECOND_US  # of any rate


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Limits that values are compared with are float32, as the values are; times are microseconds. Shapes (8,)."""

    fail_low: NDArray[np.float32]
    fail_high: NDArray[np.float32]
    suspect_low: NDArray[np.float32]
    suspect_high: NDArray[np.float32]
    spike_suspect: NDArray[np.float32]
    spike_fail: NDArray[np.float32]
    rate_suspect_per_us: NDArray[np.float64]
    rate_suspect_per_hour: NDArray[np.float32]
    flat_suspect_us: NDArray[np.int64]
    flat_fail_us: NDArray[np.int64]


def limits_of(parameters: Sequence[Parameter] = PARAMETERS) -> Limits:
    """The limits written in the table. Raises ValueError naming a parameter whose limits contradict each other."""
    for parameter in parameters:
        _check(parameter)

    def values(get: Callable[[Parameter], float]) -> NDArray[np.float32]:
        return np.array([get(parameter) for parameter in parameters], np.float32)

    return Limits(
        fail_low=values(lambda p: p.fail_range[0]),
        fail_high=values(lambda p: p.fail_range[1]),
        suspect_low=values(lambda p: p.suspect_range[0]),
        suspect_high=values(lambda p: p.suspect_range[1]),
        spike_suspect=values(lambda p: p.spike_suspect),
        spike_fail=values(lambda p: p.spike_fail),
        rate_suspect_per_us=np.array([p.rate_suspect_per_hour / HOUR_US for p in parameters], np.float64),
        rate_suspect_per_hour=values(lambda p: p.rate_suspect_per_hour),
        flat_suspect_us=np.array([p.flat_suspect_s * SECOND_US for p in parameters], np.int64),
        flat_fail_us=np.array([p.flat_fail_s * SECOND_US for p in parameters], np.int64),
    )


def _check(parameter: Parameter) -> None:
    fail_low, fail_high = parameter.fail_range
    low, high = parameter.suspect_range
    if not fail_low <= low < high <= fail_high:
        raise ValueError(f"{parameter.label}: suspect range {low}..{high} must lie within fail range {fail_low}..{fail_high}")
    for name, suspect, fail in (
        ("spike", parameter.spike_suspect, parameter.spike_fail),
        ("flat", parameter.flat_suspect_s, parameter.flat_fail_s),
    ):
        if not 0 < suspect <= fail:
            raise ValueError(f"{parameter.label}: {name}_suspect {suspect} must be positive and at most {name}_fail {fail}")
