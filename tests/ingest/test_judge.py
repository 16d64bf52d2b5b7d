"""Law 3: refuse only what cannot be stored, exactly one reason each, the lowest number that holds."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from waterquality.v1 import ingest_pb2

from ingest_svc.judge import Limits, Reason, judge
from water.parameter import PARAMETERS
from water.readings import Readings

NOW_US = 1_767_225_600_000_000
LIMITS = Limits(max_batch_readings=12)

VALUES = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 7.0, -9999.0, 3.4e38])
IDS = st.sampled_from([-(2**63), -1, 0, 1, 7, 2**63 - 1])
TIMES = st.sampled_from(
    [0, -(2**63), LIMITS.horizon_us - 1, LIMITS.horizon_us, NOW_US, NOW_US + LIMITS.future_us, NOW_US + LIMITS.future_us + 1]
)
ROWS = st.lists(st.tuples(IDS, TIMES, st.lists(VALUES, min_size=8, max_size=8)), min_size=1, max_size=16)


def expected_reason(row: tuple[int, int, list[float]], batch_length: int, size_bytes: int) -> tuple[int, int]:
    """One reading, judged by the words of the contract."""
    sensor_id, at, values = row
    if sensor_id <= 0:
        return Reason.INVALID_SENSOR, 0
    if at > NOW_US + LIMITS.future_us:
        return Reason.IN_THE_FUTURE, 0
    if at < LIMITS.horizon_us:
        return Reason.TOO_OLD, 0
    if all(math.isnan(value) for value in values):
        return Reason.NO_VALUES, 0
    if any(math.isinf(value) for value in values):
        return Reason.NOT_FINITE, next(p.number for p, v in zip(PARAMETERS, values, strict=True) if math.isinf(v))
    if batch_length > LIMITS.max_batch_readings or size_bytes > LIMITS.max_batch_bytes:
        return Reason.BATCH_TOO_LARGE, 0
    return 0, 0


@given(ROWS, st.sampled_from([100, 2_000_000]))
def test_each_reading_is_accepted_or_has_the_lowest_reason_that_holds(
    rows: list[tuple[int, int, list[float]]], size_bytes: int
) -> None:
    readings = Readings(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float32).T.copy(),
    )
    expected = [expected_reason(row, len(rows), size_bytes) for row in rows]

    verdict = judge(readings, size_bytes, NOW_US, LIMITS)

    found: dict[int, tuple[int, int]] = {}
    order: list[int] = []
    for refusal in verdict.refusals:
        indexes = list(refusal.indexes or range(len(rows)))
        assert refusal.count == len(indexes)
        assert not found.keys() & set(indexes), "two reasons for one reading"
        found |= dict.fromkeys(indexes, (refusal.reason, refusal.parameter))
        order += indexes
    assert [found.get(index, (0, 0)) for index in range(len(rows))] == expected
    assert verdict.refused.sensor_id.tolist() == [rows[index][0] for index in order]
    assert verdict.accepted.measured_at_us.tolist() == [row[1] for row, why in zip(rows, expected, strict=True) if not why[0]]


def test_a_batch_of_which_nothing_is_refused_is_passed_on_as_it_came() -> None:
    readings = Readings(np.array([1]), np.array([NOW_US]), np.full((8, 1), 7, np.float32), source="the message")

    assert judge(readings, 100, NOW_US, LIMITS).accepted is readings


def test_implausible_values_are_no_reason() -> None:
    readings = Readings(np.array([1]), np.array([NOW_US]), np.full((8, 1), -9999, np.float32))

    assert not judge(readings, 100, NOW_US, LIMITS).refusals


def test_the_reasons_are_those_of_the_contract() -> None:
    contract = {name.removeprefix("REJECTION_REASON_"): number for name, number in ingest_pb2.RejectionReason.items()}

    assert {reason.name: int(reason) for reason in Reason} | {"UNSPECIFIED": 0} == contract
