"""Flags pack into four bits each and roll up to the worst; the table of parameters is one that can be used."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waterquality.v1 import reading_pb2

from water.flags import FAIL, GOOD, MISSING, NOT_EVALUATED, SUSPECT, pack, unpack, worst
from water.limits import limits_of
from water.parameter import PARAMETERS

_FLAG = st.sampled_from((NOT_EVALUATED, GOOD, SUSPECT, FAIL, MISSING))


@given(rows=st.lists(st.lists(_FLAG, min_size=8, max_size=8), max_size=20))
def test_flags_unpack_to_what_was_packed_each_in_the_bits_of_its_parameter(rows: list[list[int]]) -> None:
    flags = np.array(rows, np.uint8).reshape(-1, 8).T
    packed = pack(flags)
    expected = [sum(flag << 4 * (p.number - 1) for flag, p in zip(row, PARAMETERS, strict=True)) for row in rows]
    assert packed.dtype == np.uint64
    assert packed.tolist() == expected
    assert (unpack(packed) == flags).all()


def test_the_worst_of_two_flags_is_missing_then_fail_then_suspect_then_good() -> None:
    order = np.array([NOT_EVALUATED, GOOD, SUSPECT, FAIL, MISSING], np.uint8)
    for place, flag in enumerate(order):
        expected = np.where(np.arange(5) > place, order, flag)
        assert (worst(order, np.full(5, flag, np.uint8)) == expected).all()


def test_flags_have_the_numbers_of_the_contract() -> None:
    named = {"GOOD": GOOD, "NOT_EVALUATED": NOT_EVALUATED, "SUSPECT": SUSPECT, "FAIL": FAIL, "MISSING": MISSING}
    assert {f"QUALITY_FLAG_{name}": flag for name, flag in named.items()} | {"QUALITY_FLAG_UNSPECIFIED": 0} == dict(
        reading_pb2.QualityFlag.items()
    )


def test_parameters_are_numbered_in_order_and_even_in_number_as_packing_needs() -> None:
    assert [parameter.number for parameter in PARAMETERS] == list(range(1, len(PARAMETERS) + 1))
    assert len(PARAMETERS) % 2 == 0
    assert set(reading_pb2.Parameter.values()) == {0, *(parameter.number for parameter in PARAMETERS)}


@pytest.mark.parametrize(
    "contradiction",
    [{"suspect_range": (-20.0, 5.0)}, {"suspect_range": (9.0, 5.0)}, {"spike_suspect": 3.0}, {"flat_suspect_s": 0}],
)
def test_limits_that_contradict_each_other_are_named(contradiction: dict[str, object]) -> None:
    wrong = dataclasses.replace(PARAMETERS[0], **contradiction)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pH: "):
        limits_of((wrong, *PARAMETERS[1:]))
