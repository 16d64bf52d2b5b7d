"""Conditions against their law: those of the reading-by-reading reference, the same for any division and after any restart."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import START_US, some_readings
from tests.water import alarms_reference
from tests.water.alarms_reference import Told
from tests.water.test_screen import assert_same_state, revived
from water.condition import Condition
from water.described import DEFAULT_GAP_US, Described, Description, Place
from water.readings import Readings, concatenate
from water.rulebook import Rulebook
from water.rules import Rule, Statistic
from water.screen import Settings, screen
from water.state import State

SECOND = 1_000_000
MINUTE, HOUR = 60 * SECOND, 3600 * SECOND
WEST, EAST, RIVER = Place("west", 1), Place("east", 2), Place("river", 3)

# A small world in which every rule is met often: few sensors and parameters, steps around every delay, values around every limit.
_STEPS_US = (
    0,
    1,
    10 * SECOND,
    MINUTE,
    MINUTE,
    4 * MINUTE,
    10 * MINUTE,
    10 * MINUTE + 1,
    31 * MINUTE,
    HOUR,
    3 * HOUR,
    3 * HOUR + 1,
)
_PH = (np.nan, -9999.0, 7.0, 7.0, 8.4, 8.5, 8.6, 9.0, 13.0, 6.4, 6.5, 6.6, 2.0)
_TURBIDITY = (np.nan, 0.3, 0.3, 1.0, 1.1, 400.0, 900.0, 5000.0)
_OXYGEN = (np.nan, 9.0, 9.0, 4.9, 5.0, 5.3, 17.0)
_ROW = st.tuples(
    st.integers(1, 3),
    st.sampled_from(_STEPS_US),
    st.tuples(st.sampled_from(_PH), st.sampled_from(_TURBIDITY), st.just(14.0), st.sampled_from(_OXYGEN)),
)
_DELAY_S = st.sampled_from((0.0, 0.0, 60.0, 600.0))
_PLACE = st.sampled_from((Place(), WEST, EAST, RIVER))


@st.composite
def _rules(draw: st.DrawFn) -> list[Rule]:
    """A rule set; those of one id are alike, or not, from one set to the next."""
    rules = []
    for rule_id in draw(st.sets(st.sampled_from("abcd"))):
        parameter, statistic, lower, upper = draw(
            st.sampled_from(
                [
                    (1, Statistic.VALUE, 6.5, 8.5),
                    (1, Statistic.VALUE, None, 8.5),
                    (1, Statistic.RATE, -3.0, 3.0),
                    (2, Statistic.VALUE, None, 1.0),
                    (2, Statistic.VALUE, 0.0, None),
                    (2, Statistic.RATE, None, 100.0),
                    (4, Statistic.VALUE, 5.0, None),
                ]
            )
        )
        rules.append(
            Rule(
                rule_id,
                parameter,
                statistic,
                lower,
                upper,
                draw(st.sampled_from((0.0, 0.1, 0.3))),
                draw(_DELAY_S),
                draw(_DELAY_S),
                draw(st.integers(1, 5)),
                sensor_ids=draw(st.sampled_from(((), (), (1, 2)))),
                site_ids=draw(st.sampled_from(((), (), ("west", "river")))),
                regions=draw(st.sampled_from(((), (), ("north",)))),
                source_type=draw(st.sampled_from((0, 0, 3))),
                disabled=draw(st.sampled_from((False, False, False, True))),
            )
        )
    return rules


@st.composite
def _descriptions(draw: st.DrawFn) -> list[Description]:
    gap = st.sampled_from((DEFAULT_GAP_US, 50 * SECOND, 100 * HOUR))
    described = draw(st.sets(st.integers(1, 3)))
    return [Description(one, draw(gap), draw(_PLACE), draw(st.sampled_from((True, True, False)))) for one in sorted(described)]


_WORLD = st.tuples(_rules(), _descriptions())


def world(rows: Sequence[tuple[int, int, tuple[float, ...]]]) -> Readings:
    """Each row a step after its sensor's row before."""
    now, times = dict.fromkeys((1, 2, 3), START_US), []
    for sensor, step_us, _ in rows:
        now[sensor] += step_us
        times.append(now[sensor])
    values = np.full((8, len(rows)), np.nan, np.float32)
    for index, (_, _, some) in enumerate(rows):
        values[: len(some), index] = some
    return Readings(np.array([row[0] for row in rows], np.int64), np.array(times, np.int64), values)


def settings_of(rules: Sequence[Rule], descriptions: Sequence[Description] = ()) -> Settings:
    """Rules in force for sensors described so."""
    return Settings(rulebook=Rulebook(rules, Described(descriptions)))


def told(condition: Condition) -> Told:
    """What the reference tells of a condition."""
    return (
        condition.measured_us,
        condition.condition_id,
        condition.change,
        condition.began_us,
        condition.ended_us,
        condition.kind,
        condition.severity_level,
        tuple(evidence.parameter for evidence in condition.evidence),
    )


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(_ROW, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    worlds=st.lists(_WORLD, min_size=7, max_size=7),
    steady=st.booleans(),
    restarts=st.sets(st.integers(0, 6)),
    regions=st.lists(st.sampled_from(("north", "north", "south")), min_size=7, max_size=7),
)
def test_conditions_are_those_of_the_reference_whatever_rules_change_and_after_restarts(
    rows: list[tuple[int, int, tuple[float, ...]]],
    cuts: list[int],
    worlds: list[tuple[list[Rule], list[Description]]],
    steady: bool,
    restarts: set[int],
    regions: list[str],
) -> None:
    readings, state, slow = world(rows), State(), alarms_reference.Reference()
    edges = [0, *sorted(min(cut, len(readings)) for cut in cuts), len(readings)]
    for number, (start, end) in enumerate(pairwise(edges)):
        rules, descriptions = worlds[0 if steady else number]
        slow.rules, slow.descriptions = rules, {one.sensor_id: one for one in descriptions}
        batch = readings.take(np.arange(start, end))
        found = screen(state, batch, settings_of(rules, descriptions), regions[number])
        assert [told(condition) for condition in found.conditions] == slow.screen(batch, regions[number])
        if number in restarts:
            state = revived(state)


@pytest.mark.parametrize("seed", range(8))
def test_long_restless_series_of_shuffled_batches_give_the_conditions_of_the_reference(seed: int) -> None:
    random = np.random.default_rng(seed)
    readings = some_readings(5000, 3, seed=seed, period_s=random.choice((10, 60, 300)), absent=0.1)
    for row, amounts in ((0, (1.1, 1.2, 1.3, 0.8)), (1, (0.3, 100, 400)), (3, (0.5, 0.3))):
        bad = (random.random(5000) < 0.05) | (np.arange(5000) // 400 % 3 == row)
        readings.values[row, bad] *= random.choice(amounts, int(bad.sum()))
    state, slow = State(), alarms_reference.Reference()
    places = [Description(one, random.choice((50 * SECOND, DEFAULT_GAP_US)), place) for one, place in ((1, WEST), (3, RIVER))]
    rules = [
        Rule("a", 1, Statistic.VALUE, 6.5, 8.5, 0.1, 0, 60, 2),
        Rule("b", 1, Statistic.RATE, -2, 2, 0.5, 60, 600, 3),
        Rule("c", 2, Statistic.VALUE, None, 5, 1, 600, 0, 4, source_type=3),
        Rule("d", 4, Statistic.VALUE, 5, None, 0.5, 60, 60, 1, site_ids=("west",)),
    ]
    told_count = 0
    for start, end in pairwise(sorted({0, 2300, 5000, *random.integers(0, 5000, 12).tolist()})):
        chosen = [rule for rule in rules if random.random() < 0.9]
        slow.rules, slow.descriptions = chosen, {one.sensor_id: one for one in places}
        batch = readings.take(random.permutation(np.arange(start, end)))
        found = screen(state, batch, settings_of(chosen, places), "north")
        expected = slow.screen(batch, "north")
        assert [told(condition) for condition in found.conditions] == expected
        told_count += len(expected)
        if random.random() < 0.5:
            state = revived(state)
    assert told_count > 100


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(_ROW, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    one=_WORLD,
    restarts=st.sets(st.integers(0, 8)),
)
def test_flags_conditions_and_state_do_not_depend_on_batches_or_restarts(
    rows: list[tuple[int, int, tuple[float, ...]]],
    cuts: list[int],
    one: tuple[list[Rule], list[Description]],
    restarts: set[int],
) -> None:
    readings, in_force = world(rows), settings_of(*one)
    whole, divided = State(), State()
    edges = [0, *sorted(min(cut, len(readings)) for cut in cuts), len(readings)]
    parts = [readings.take(np.arange(start, end)) for start, end in pairwise(edges)]
    flags: list[np.ndarray] = []
    conditions: list[Condition] = []
    for number, part in enumerate(parts):
        found = screen(divided, part, in_force, "north")
        flags.append(found.flags)
        conditions += found.conditions
        if number in restarts:
            divided = revived(divided)
    expected = screen(whole, concatenate(parts), in_force, "north")
    assert np.concatenate(flags).tolist() == expected.flags.tolist()
    by_time = sorted(conditions, key=lambda condition: (condition.measured_us, condition.condition_id))
    assert by_time == list(expected.conditions)
    assert_same_state(whole, divided)
