"""Which readings of a batch cannot be stored, and why: law 3, exactly one reason each, the lowest number that holds."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from water.parameter import PARAMETERS
from water.readings import Readings

_NUMBERS = np.array([parameter.number for parameter in PARAMETERS], np.uint8)


class Reason(IntEnum):
    """RejectionReason of the contract, same numbers (kept by a test)."""

    COLUMNS_UNEQUAL = 1
    INVALID_SENSOR = 2
    IN_THE_FUTURE = 3
    TOO_OLD = 4
    NO_VALUES = 5
    NOT_PERMITTED = 6
    UNKNOWN_SENSOR = 7
    NOT_FINITE = 8
    BATCH_TOO_LARGE = 9


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch may be: readings, bytes on the wire, and measured times from `horizon_us` to `future_us` past now."""

    max_batch_readings: int = 10_000
    max_batch_bytes: int = 512 * 1024
    future_us: int = 300 * 1_000_000
    horizon_us: int = 946_684_800 * 1_000_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """`count` readings refused for one reason; `parameter` is its number or 0; no indexes: the whole batch."""

    reason: Reason
    count: int
    parameter: int = 0
    indexes: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`accepted` is the batch itself (with `source`) when nothing was refused. `refused` is in the order of the indexes."""

    accepted: Readings
    refused: Readings
    refusals: tuple[Refusal, ...]


def judge(readings: Readings, size_bytes: int, now_us: int, limits: Limits) -> Verdict:
    """Judges each reading by itself. `size_bytes`: the batch on the wire; `now_us`: the clock of arrival."""
    nothing = readings.take(np.empty(0, np.intp))
    reason, parameter = _reasons(readings, size_bytes, now_us, limits)
    if not reason.any():
        return Verdict(readings, nothing, ())
    refusals, order = _group(reason, parameter)
    accepted = np.flatnonzero(reason == 0)
    return Verdict(readings.take(accepted), readings.take(order), refusals)


def _reasons(readings: Readings, size_bytes: int, now_us: int, limits: Limits) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Reason and parameter of each reading, 0 where there is none. Written from the highest reason down: the lowest stays."""
    reason = np.zeros(len(readings), np.uint8)
    parameter = np.zeros(len(readings), np.uint8)
    if len(readings) > limits.max_batch_readings or size_bytes > limits.max_batch_bytes:
        reason[:] = Reason.BATCH_TOO_LARGE
    infinite = np.isinf(readings.values)
    if infinite.any():
        some = infinite.any(axis=0)
        reason[some] = Reason.NOT_FINITE
        parameter[some] = _NUMBERS[infinite[:, some].argmax(axis=0)]
    for holds, why in (
        (np.isnan(readings.values).all(axis=0), Reason.NO_VALUES),
        (readings.measured_at_us < limits.horizon_us, Reason.TOO_OLD),
        (readings.measured_at_us > now_us + limits.future_us, Reason.IN_THE_FUTURE),
        (readings.sensor_id <= 0, Reason.INVALID_SENSOR),
    ):
        reason[holds] = why
    parameter[reason != Reason.NOT_FINITE] = 0
    return reason, parameter


def _group(reason: NDArray[np.uint8], parameter: NDArray[np.uint8]) -> tuple[tuple[Refusal, ...], NDArray[np.intp]]:
    """Refusals by reason and parameter, and the refused positions in the order of their indexes."""
    refusals: list[Refusal] = []
    order: list[NDArray[np.intp]] = []
    key = reason.astype(np.uint16) << 8 | parameter
    for value in np.unique(key[reason > 0]).tolist():
        at = np.flatnonzero(key == value)
        whole = len(at) == len(reason)
        refusals.append(Refusal(Reason(value >> 8), len(at), value & 0xFF, () if whole else _compact(at)))
        order.append(at)
    return tuple(refusals), np.concatenate(order)


def _compact(at: NDArray[np.intp]) -> Sequence[int]:
    """4 bytes each: they wait until the gateway reads its acknowledgement, which a bad one never does."""
    return array("i", at.astype(np.intc).tobytes())
