"""The fold against its laws: one flag per value, causal, the same for any division into batches and after any restart."""

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.water.reference import Reference
from water.described import DEFAULT_GAP_US, Described, Description
from water.flags import FAIL, GOOD, MISSING, SUSPECT, unpack
from water.parameter import BY_COLUMN, PARAMETERS, SENTINELS, Parameter
from water.readings import Readings, concatenate
from water.rulebook import Rulebook
from water.screen import Settings, screen
from water.state import State

SECOND = 1_000_000
HOUR = 3600 * SECOND
DEFAULTS = Settings()


def flag(flags: np.ndarray, column: str, index: int = -1) -> int:
    """The flag of one parameter of one reading."""
    return int(unpack(flags)[BY_COLUMN[column].number - 1, index])


def phs(*values: float, step_us: int = 600 * SECOND) -> Readings:
    """One sensor's pH, one value after the other."""
    return readings_of(*((1, START_US + i * step_us, {"ph": value}) for i, value in enumerate(values)))


def last_flag(readings: Readings, column: str = "ph") -> int:
    """The flag of the newest value of readings screened with no past."""
    return flag(screen(State(), readings, DEFAULTS).flags, column)


def test_an_absent_value_is_missing_and_a_present_one_is_judged() -> None:
    flags = screen(State(), a_reading(ph=7.2), DEFAULTS).flags
    assert flag(flags, "ph") == GOOD
    assert flag(flags, "temperature_c") == MISSING


@pytest.mark.parametrize("column", [parameter.column for parameter in PARAMETERS])
def test_sentinels_and_absurd_values_fail_for_every_parameter(column: str) -> None:
    for value in (*SENTINELS, 3.4e38, -3.4e38, np.inf, -np.inf):
        assert last_flag(a_reading(1, START_US, **{column: value}), column) == FAIL, value


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.column)
def test_the_ends_of_a_range_belong_to_it_after_rounding_to_float32(parameter: Parameter) -> None:
    def judged(value: np.float32) -> int:
        return last_flag(a_reading(1, START_US, **{parameter.column: float(value)}), parameter.column)

    for side, beyond in ((0, -np.inf), (1, np.inf)):
        suspect, fail = np.float32(parameter.suspect_range[side]), np.float32(parameter.fail_range[side])
        assert judged(suspect) == GOOD
        assert judged(np.nextafter(fail, np.float32(beyond))) == FAIL
        if suspect != fail:
            assert judged(np.nextafter(suspect, np.float32(beyond))) == SUSPECT
            assert judged(fail) == SUSPECT


def test_a_spike_is_judged_only_with_two_values_before_it() -> None:
    assert last_flag(phs(7.0, 9.5, step_us=HOUR * 2)) == GOOD
    assert last_flag(phs(7.0, 7.0, 9.5, step_us=HOUR * 2)) == FAIL
    assert last_flag(phs(7.0, 7.0, 7.6, step_us=HOUR * 2)) == SUSPECT


def test_a_fast_change_is_suspect_and_the_same_change_over_hours_is_not() -> None:
    assert last_flag(phs(7.0, 7.45, step_us=600 * SECOND)) == SUSPECT
    assert last_flag(phs(7.0, 7.45, step_us=HOUR)) == GOOD


def test_the_last_digit_moving_at_ten_second_steps_is_not_fast() -> None:
    assert last_flag(phs(7.00, 7.01, 7.00, 7.02, 7.00, step_us=10 * SECOND)) == GOOD


def test_an_unchanged_value_becomes_suspect_then_fails_by_time_not_by_rows() -> None:
    for step_us in (60 * SECOND, 3600 * SECOND):
        readings = phs(*[7.0] * (1 + 170 * HOUR // step_us), step_us=step_us)
        age_h = (readings.measured_at_us - START_US) / HOUR
        flags = unpack(screen(State(), readings, DEFAULTS).flags)[0]
        assert (flags[age_h < 72] == GOOD).all()
        assert (flags[(age_h >= 72) & (age_h < 168)] == SUSPECT).all()
        assert (flags[age_h >= 168] == FAIL).all()


def test_after_a_gap_history_starts_anew() -> None:
    state = State()
    screen(state, phs(7.0, 7.0), DEFAULTS)
    after = readings_of(
        *((1, START_US + 600 * SECOND + DEFAULT_GAP_US + 1 + i, {"ph": value}) for i, value in enumerate((9.9, 9.9)))
    )
    flags = screen(state, after, DEFAULTS).flags
    assert [flag(flags, "ph", i) for i in (0, 1)] == [GOOD, GOOD]


def test_a_sensor_with_an_expected_period_has_a_gap_limit_of_its_own() -> None:
    own = Settings(rulebook=Rulebook(described=Described([Description(1, 50 * SECOND)])))
    readings = phs(7.0, 9.9, step_us=60 * SECOND)
    assert flag(screen(State(), readings, DEFAULTS).flags, "ph") == SUSPECT
    assert flag(screen(State(), readings, own).flags, "ph") == GOOD


def test_a_failed_value_does_not_enter_history() -> None:
    assert last_flag(phs(7.0, 7.0, -9999.0, 7.0)) == GOOD


def test_a_late_reading_is_judged_by_itself_and_changes_no_state() -> None:
    state, undisturbed = State(), State()
    for memory in (state, undisturbed):
        screen(memory, phs(7.0, 7.0, 7.0), DEFAULTS)
    late = readings_of((1, START_US, {"ph": 9.9}), (1, START_US + 1, {"ph": 15.0}), (1, START_US + 1200 * SECOND, {"ph": 2.0}))
    flags = screen(state, late, DEFAULTS).flags
    assert [flag(flags, "ph", i) for i in range(3)] == [GOOD, FAIL, SUSPECT]
    assert_same_state(state, undisturbed)


def test_of_two_readings_at_one_time_the_first_is_fresh() -> None:
    state = State()
    flags = screen(state, readings_of((1, START_US, {"ph": 7.0}), (1, START_US, {"ph": 9.9})), DEFAULTS).flags
    assert [flag(flags, "ph", i) for i in (0, 1)] == [GOOD, GOOD]
    assert state.columns()["value"][0] == np.float32(7.0)


def test_no_readings_give_no_flags() -> None:
    nothing = screen(State(), some_readings(0), DEFAULTS)
    assert (nothing.flags.shape, nothing.conditions) == ((0,), ())


def test_state_is_at_most_400_bytes_a_sensor_while_it_grows() -> None:
    state = State()
    for start in range(0, 5000, 97):
        screen(state, some_readings(97, range(start + 1, start + 98)), DEFAULTS)
        assert state.size_bytes <= 400 * len(state)


# A small world in which every rule is met often: few sensors, steps around every limit, values around every limit.
_STEPS_US = (0, 1, 10 * SECOND, 600 * SECOND, HOUR, 3 * HOUR, 3 * HOUR + 1, 24 * HOUR, -10 * SECOND, -HOUR)
_VALUES = (np.nan, np.nan, 7.0, 7.0, 7.0, 7.01, 7.4, 7.6, 9.5, 3.0, 14.0, 15.0, -9999.0, 0.0, -0.0, 250.0, 3000.0)
_ROW = st.tuples(st.integers(1, 3), st.sampled_from(_STEPS_US), st.lists(st.sampled_from(_VALUES), min_size=8, max_size=8))
_GAPS_US = {2: 50 * SECOND, 3: 100 * HOUR}
_SETTINGS = Settings(rulebook=Rulebook(described=Described(Description(*sensor) for sensor in _GAPS_US.items())))


def world(rows: list[tuple[int, int, list[float]]]) -> Readings:
    """Each row a step after its sensor's row before; a step may go back."""
    now = dict.fromkeys((1, 2, 3), START_US)
    times = []
    for sensor, step_us, _ in rows:
        now[sensor] += step_us
        times.append(now[sensor])
    values = np.array([row[2] for row in rows], np.float32).T if rows else np.empty((8, 0), np.float32)
    return Readings(np.array([row[0] for row in rows], np.int64), np.array(times, np.int64), values)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(_ROW, max_size=40), cuts=st.lists(st.integers(0, 40), max_size=6), restarts=st.sets(st.integers(0, 6)))
def test_the_fold_equals_the_row_by_row_reference_in_any_batches_and_after_restarts(
    rows: list[tuple[int, int, list[float]]], cuts: list[int], restarts: set[int]
) -> None:
    readings = world(rows)
    state, reference = State(), Reference(_GAPS_US)
    edges = [0, *sorted(min(cut, len(readings)) for cut in cuts), len(readings)]
    for number, (start, end) in enumerate(pairwise(edges)):
        batch = readings.take(np.arange(start, end))
        assert screen(state, batch, _SETTINGS).flags.tolist() == reference.screen(batch).tolist()
        if number in restarts:
            state = revived(state)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(_ROW, max_size=40), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_flags_of_readings_in_time_order_do_not_depend_on_the_batches(
    rows: list[tuple[int, int, list[float]]], cuts: list[int]
) -> None:
    readings = world([(sensor, abs(step_us), values) for sensor, step_us, values in rows])
    whole, divided = State(), State()
    edges = [0, *sorted(min(cut, len(readings)) for cut in cuts), len(readings)]
    parts = [readings.take(np.arange(start, end)) for start, end in pairwise(edges)]
    flags = [screen(divided, part, _SETTINGS).flags for part in parts]
    assert np.concatenate(flags).tolist() == screen(whole, concatenate(parts), _SETTINGS).flags.tolist()
    assert_same_state(whole, divided)


def test_many_sensors_in_large_batches_equal_the_reference() -> None:
    readings = some_readings(4000, 150, seed=3, absent=0.2, period_s=400)
    random = np.random.default_rng(5)
    jumps = random.random(readings.values.shape) < 0.02
    readings.values[jumps] *= 3
    shuffled = readings.take(np.argsort(np.arange(4000) + random.integers(0, 300, 4000)))
    state, reference = State(), Reference()
    for start, end in pairwise((0, 700, 3900, 4000)):  # one larger than what is folded at once
        batch = shuffled.take(np.arange(start, end))
        assert (screen(state, batch, DEFAULTS).flags == reference.screen(batch)).all()


def revived(state: State) -> State:
    """The state after a way through bytes."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **state.columns())
    file.seek(0)
    with np.load(file, allow_pickle=False) as columns:
        return State.of({name: columns[name] for name in columns.files})


def assert_same_state(left: State, right: State) -> None:
    """Every column is the same, bit by bit."""
    for name, column in left.columns().items():
        assert column.tobytes() == right.columns()[name].tobytes(), name
