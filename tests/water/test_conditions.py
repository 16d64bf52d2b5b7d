"""Conditions by example: limits with deadband and delays, the detector, what ends with a changed rule, and how they are told."""

import numpy as np
import pytest

from tests.builders import START_US, a_reading, readings_of, some_readings
from tests.water.test_screen import assert_same_state
from water.condition import Change, Condition, Kind
from water.described import Described, Description, Place
from water.readings import Readings
from water.rulebook import Rulebook
from water.rules import Rule, Statistic
from water.screen import MOST_CONDITIONS, Settings, screen
from water.state import State

SECOND = 1_000_000
MINUTE, HOUR = 60 * SECOND, 3600 * SECOND
R, U, C = Change.RAISED, Change.UPDATED, Change.CLEARED
_PH_HIGH = Rule("ph-high", 1, upper_limit=8.5, severity_level=2)


def values(column: str, *series: float, step_us: int = MINUTE, start_us: int = START_US) -> Readings:
    """One sensor's values, one after the other."""
    return readings_of(*((1, start_us + i * step_us, {column: value}) for i, value in enumerate(series)))


def in_force(*rules: Rule, described: tuple[Description, ...] = ()) -> Settings:
    """These rules, for sensors described so."""
    return Settings(rulebook=Rulebook(rules, Described(described)))


def conditions(readings: Readings, *rules: Rule) -> tuple[Condition, ...]:
    """What these readings show where nothing was known before."""
    return screen(State(), readings, in_force(*rules), "north").conditions


def minutes(found: tuple[Condition, ...]) -> list[tuple[Change, float, float | None]]:
    """(change, began, ended) of each, in minutes after START_US."""
    return [
        (one.change, (one.began_us - START_US) / MINUTE, None if one.ended_us is None else (one.ended_us - START_US) / MINUTE)
        for one in found
    ]


def test_a_value_beyond_its_limit_is_told_with_all_that_is_known() -> None:
    place = Description(1, place=Place("river-7", 3))
    (found,) = screen(State(), a_reading(ph=9.35), in_force(_PH_HIGH, described=(place,)), "north").conditions
    (evidence,) = found.evidence
    assert found.condition_id == "limit/ph-high/1"
    assert (found.change, found.began_us, found.ended_us, found.measured_us) == (R, START_US, None, START_US)
    assert (found.sensor_id, found.site_id, found.kind, found.rule_id) == (1, "river-7", Kind.LIMIT, "ph-high")
    assert (found.severity_level, found.contaminant_type) == (2, "")
    assert (evidence.parameter, evidence.value, evidence.expected, evidence.test) == (1, float(np.float32(9.35)), 8.5, "limit")
    assert evidence.score == pytest.approx(9.35 / 8.5)


@pytest.mark.parametrize("limit", [0.1, 0.2, 0.3, 0.7, 6.6, 8.1])
def test_the_ends_of_what_is_allowed_belong_to_it_after_rounding_to_float32(limit: float) -> None:
    low, high = Rule("low", 6, lower_limit=limit), Rule("high", 6, upper_limit=limit)
    exactly = np.float32(limit)
    above, below = (float(np.nextafter(exactly, np.float32(towards))) for towards in (99, -99))
    assert conditions(a_reading(disinfectant_mg_l=limit), low, high) == ()
    assert [one.rule_id for one in conditions(a_reading(disinfectant_mg_l=above), low, high)] == ["high"]
    assert [one.rule_id for one in conditions(a_reading(disinfectant_mg_l=below), low, high)] == ["low"]


def test_it_clears_only_beyond_the_deadband_and_as_of_the_first_that_was_back() -> None:
    rule = Rule("ph", 1, lower_limit=6.5, upper_limit=8.5, deadband=0.2)
    assert minutes(conditions(values("ph", 8.6, 8.4, 8.5, 8.31, 8.3, 7.0), rule)) == [(R, 0, None), (C, 0, 4)]
    assert minutes(conditions(values("ph", 6.4, 6.6, 6.69, 6.7, 7.0), rule)) == [(R, 0, None), (C, 0, 3)]


def test_it_is_raised_when_it_has_lasted_for_the_on_delay_and_began_with_its_first_reading() -> None:
    rule = Rule("ph", 1, upper_limit=8.5, deadband=0.2, on_delay_s=180)
    found = conditions(values("ph", 7, 9, 9, 8.4, 9, 9), rule)
    assert minutes(found) == [(R, 1, None)]
    assert found[0].measured_us == START_US + 4 * MINUTE
    assert conditions(values("ph", 7, 9, 9, 9, 7, 9, 9, 9), rule) == ()


def test_it_clears_when_it_has_been_over_for_the_off_delay() -> None:
    rule = Rule("ph", 1, upper_limit=8.5, off_delay_s=120)
    found = conditions(values("ph", 9, 7, 7, 9, 7, 7, 7, 7), rule)
    assert minutes(found) == [(R, 0, None), (C, 0, 4)]
    assert found[1].measured_us == START_US + 6 * MINUTE


def test_a_gap_ends_what_is_pending_and_not_what_is_active() -> None:
    state, settings = State(), in_force(Rule("ph", 1, upper_limit=8.5, on_delay_s=60, off_delay_s=60))
    found = [
        minutes(screen(state, values("ph", *series, start_us=START_US + hour * HOUR), settings).conditions)
        for hour, series in ((0, (9.0,)), (4, (9.0, 9.0)), (8, (7.0,)), (12, (9.0, 7.0)), (16, (7.0, 7.0)))
    ]
    assert found == [[], [(R, 240, None)], [], [], [(C, 240, 960)]]


@pytest.mark.parametrize("nothing", [np.nan, -9999.0, 15.0, 3.4e38])
def test_missing_and_failed_values_change_nothing(nothing: float) -> None:
    rule = Rule("ph", 1, upper_limit=8.5, on_delay_s=120, off_delay_s=120)
    found = conditions(values("ph", nothing, 9, nothing, 9, nothing, 7, nothing, 7, nothing), rule)
    assert minutes(found) == [(R, 1, None), (C, 1, 5)]


def test_late_readings_change_nothing() -> None:
    state, undisturbed, settings = State(), State(), in_force(_PH_HIGH)
    for memory in (state, undisturbed):
        screen(memory, values("ph", 7.0, 7.0, 7.0), settings)
    assert screen(state, values("ph", 9.9, 9.9, 9.9), settings).conditions == ()
    assert_same_state(state, undisturbed)


def test_it_is_told_again_only_when_it_is_half_as_bad_again() -> None:
    found = conditions(values("turbidity_ntu", 2, 2.1, 2.9, 3, 4, 3, 4.6, 4.6), Rule("ntu", 2, upper_limit=1))
    assert [(one.change, one.evidence[0].value) for one in found] == [(R, 2), (U, 3), (U, np.float32(4.6))]
    assert {one.began_us for one in found} == {START_US}


def test_every_change_of_one_batch_is_told_in_the_order_of_time() -> None:
    found = conditions(values("ph", 9, 7, 9, 7), _PH_HIGH, Rule("ph-higher", 1, upper_limit=8.9))
    assert [(one.condition_id.split("/")[1], *ended) for one, ended in zip(found, minutes(found), strict=True)] == [
        ("ph-high", R, 0, None),
        ("ph-higher", R, 0, None),
        ("ph-high", C, 0, 1),
        ("ph-higher", C, 0, 1),
        ("ph-high", R, 2, None),
        ("ph-higher", R, 2, None),
        ("ph-high", C, 2, 3),
        ("ph-higher", C, 2, 3),
    ]


def test_a_rate_is_per_hour_since_the_first_value_of_the_span_before_and_falls_are_negative() -> None:
    falls = Rule("do-falls", 4, Statistic.RATE, lower_limit=-3)
    found = conditions(values("dissolved_oxygen_mg_l", 9, 9, 9, 9, 9, 9, 8.9, 8.6, 8.4), falls)
    assert minutes(found) == [(R, 8, None)]
    (evidence,) = found[0].evidence
    assert evidence.value == pytest.approx(-0.6 * 6, rel=1e-5)
    assert (evidence.expected, evidence.test) == (-3.0, "rate")
    assert conditions(values("dissolved_oxygen_mg_l", 8.4, 8.4, 8.4, 8.4, 8.4, 9.0, 9.0), falls) == ()


def test_the_last_digit_moving_at_ten_second_steps_is_no_rate() -> None:
    rule = Rule("ph-rate", 1, Statistic.RATE, lower_limit=-0.5, upper_limit=0.5)
    assert conditions(values("ph", *([7.0, 7.05] * 100), step_us=10 * SECOND), rule) == ()


def test_after_a_gap_a_rate_is_measured_from_the_first_value() -> None:
    rule = Rule("ph-rate", 1, Statistic.RATE, upper_limit=0.5)
    state, settings = State(), in_force(rule)
    screen(state, values("ph", 7.0, 7.0), settings)
    assert screen(state, values("ph", 8.0, 8.05, start_us=START_US + 4 * HOUR), settings).conditions == ()
    (raised,) = screen(state, values("ph", 9.0, 9.1, start_us=START_US + 8 * HOUR), settings).conditions
    assert raised.change is Change.RAISED


def moving(*rows: tuple[float, dict[str, float]]) -> Readings:
    """Readings of sensor 1 at these minutes; pH 7, turbidity 3, oxygen 9 and 14 degrees where nothing else is given."""
    usual = {"ph": 7.0, "turbidity_ntu": 3.0, "dissolved_oxygen_mg_l": 9.0, "temperature_c": 14.0}
    return readings_of(*((1, START_US + round(minute * MINUTE), usual | some) for minute, some in rows))


def test_two_parameters_that_move_too_fast_within_ten_minutes_are_contamination() -> None:
    found = conditions(moving((0, {}), (5, {"ph": 8.0}), (15, {"ph": 8.0, "dissolved_oxygen_mg_l": 6.0})))
    (one,) = found
    assert (one.condition_id, one.kind, one.rule_id) == ("contamination/1", Kind.CONTAMINATION, "multi-parameter-rate")
    assert (one.change, one.began_us, one.severity_level, one.contaminant_type) == (R, START_US + 15 * MINUTE, 4, "unknown")
    assert [(evidence.parameter, evidence.value, evidence.expected, evidence.test) for evidence in one.evidence] == [
        (1, 8.0, 7.0, "fast change"),
        (4, 6.0, 9.0, "fast change"),
    ]
    assert [evidence.score for evidence in one.evidence] == [pytest.approx(3), pytest.approx(1.8)]


def test_one_parameter_or_two_further_apart_are_no_contamination() -> None:
    assert conditions(moving((0, {}), (10, {"ph": 9.0}), (20, {"ph": 7.0}), (30, {"ph": 9.0}))) == ()
    assert conditions(moving((0, {}), (10, {"ph": 9.0}), (20.1, {"ph": 9.0, "dissolved_oxygen_mg_l": 2.0}))) == ()


def test_a_third_parameter_joins_and_half_an_hour_of_peace_clears() -> None:
    both, three = {"ph": 9.0, "temperature_c": 20.0}, {"ph": 9.0, "temperature_c": 20.0, "dissolved_oxygen_mg_l": 2.0}
    found = conditions(moving((0, {}), (10, both), (15, three), *((minute, three) for minute in range(20, 71, 5))))
    assert minutes(found) == [(R, 10, None), (U, 10, None), (C, 10, 25)]
    assert [one.severity_level for one in found] == [4, 5, 5]
    assert [[evidence.parameter for evidence in one.evidence] for one in found] == [[1, 3], [1, 3, 4], [1, 3, 4]]
    assert found[2].measured_us == START_US + 55 * MINUTE


def test_a_rule_that_is_not_for_the_sensor_any_more_ends_as_of_the_last_reading_that_showed_it() -> None:
    for without in (
        in_force(),
        in_force(Rule("ph-high", 1, upper_limit=8.5, disabled=True)),
        in_force(Rule("ph-high", 1, upper_limit=8.5, regions=("south",))),
        in_force(Rule("ph-high", 1, upper_limit=8.5, site_ids=("elsewhere",))),
        in_force(Rule("ph-high", 3, upper_limit=8.5)),
        in_force(_PH_HIGH, described=(Description(1, in_service=False),)),
    ):
        state = State()
        screen(state, values("ph", 9, 9, 9), in_force(_PH_HIGH), "north")
        assert screen(state, a_reading(2, START_US + 3 * MINUTE, ph=7.0), without, "north").conditions == ()
        found = screen(state, values("ph", 9, 9, start_us=START_US + 3 * MINUTE), without, "north").conditions
        assert minutes(found) == [(C, 0, 2)]
        assert (found[0].rule_id, found[0].measured_us) == ("ph-high", START_US + 3 * MINUTE)
        assert len(state.troubles.alarms) == 0


def test_a_rule_with_other_limits_goes_on_with_them() -> None:
    state = State()
    screen(state, values("ph", 9.2), in_force(_PH_HIGH))
    severe = Rule("ph-high", 1, upper_limit=9.1, severity_level=4)
    found = screen(state, values("ph", 9.2, 9.2, 9.0, start_us=START_US + MINUTE), in_force(severe)).conditions
    assert [(one.change, one.severity_level) for one in found] == [(U, 4), (C, 4)]
    assert minutes(found) == [(U, 0, None), (C, 0, 3)]


def test_a_sensor_out_of_service_has_no_conditions() -> None:
    settings = in_force(_PH_HIGH, described=(Description(1, in_service=False),))
    state = State()
    readings = moving((0, {"ph": 9.0}), (10, {"ph": 13.0, "dissolved_oxygen_mg_l": 2.0}))
    assert screen(state, readings, settings).conditions == ()
    assert (len(state.troubles.alarms), len(state.troubles.fast)) == (0, 0)


def test_memory_grows_with_trouble_and_not_with_sensors_and_rules() -> None:
    state = State()
    settings = in_force(*(Rule(f"ph-{number}", 1, upper_limit=8 + number / 100) for number in range(100)))
    for start in range(0, 2000, 500):
        screen(state, some_readings(500, range(start + 1, start + 501)), settings)
    assert state.size_bytes <= 400 * len(state)
    screen(state, values("ph", 8.5, start_us=START_US + HOUR), settings)
    assert len(state.troubles.alarms) == 50


def test_a_batch_tells_no_more_than_its_record_can_hold_and_alarms_stay_as_told() -> None:
    rules = [Rule(f"ph-{number}", 1, upper_limit=8 + number / 1000) for number in range(20)]
    readings = values("ph", *([9.0, 7.0] * 400), 9.0, step_us=10 * SECOND)
    state = State()
    found = screen(state, readings, in_force(*rules)).conditions
    assert len(found) == MOST_CONDITIONS
    last = {one.condition_id: one for one in found}
    assert {one.condition_id for one in last.values() if one.change != C} == {
        f"limit/{state.troubles.names[alarm['rule']]}/1" for alarm in state.troubles.alarms.table if alarm["active"]
    }
    after = screen(state, values("ph", 7.0, 7.0, start_us=START_US + 3 * HOUR), in_force(*rules)).conditions
    assert {one.change for one in after} == {C}
