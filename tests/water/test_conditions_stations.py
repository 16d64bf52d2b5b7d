"""Conditions on measurements that nobody here made: those of the reference, one episode at a time, however they are cut."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from alert_svc.rule_defaults import DEFAULT_RULES
from tests.water.alarms_reference import Reference
from tests.water.stations import station, station_files
from tests.water.test_conditions_fold import told
from tests.water.test_screen import assert_same_state, revived
from water.condition import Change, Condition
from water.described import Described, Description, Place
from water.readings import Readings
from water.rulebook import Rulebook
from water.rules import Rule, Statistic
from water.screen import Settings, screen
from water.state import State

_SOURCE_TYPE = {"epa_buoys": 3, "nerrs": 3, "logan_river": 3, "gecco": 1}
_RULES = (
    *DEFAULT_RULES,
    Rule("ph-rate", 1, Statistic.RATE, -0.5, 0.5, 0.1, 600, 600),
    Rule("turbidity", 2, upper_limit=50, deadband=5, on_delay_s=1800, off_delay_s=3600),
)
_FILES = pytest.mark.parametrize("path", station_files(), ids=lambda path: path.name.split(".")[0])


def fold(path: Path, readings: Readings, batch: int, restart_every: int = 0) -> tuple[list[Condition], State]:
    """The conditions of a station's file in batches of this size, with a way through bytes after every so many."""
    description = Description(1, place=Place("station", _SOURCE_TYPE[path.parent.name]))
    settings, state, found = Settings(rulebook=Rulebook(_RULES, Described([description]))), State(), list[Condition]()
    for number, start in enumerate(range(0, len(readings), batch)):
        found += screen(state, readings.take(np.arange(start, min(start + batch, len(readings)))), settings, "north").conditions
        if restart_every and number % restart_every == 0:
            state = revived(state)
    return found, state


@_FILES
def test_conditions_of_a_real_station_are_those_of_the_reference(path: Path) -> None:
    readings, slow = station(path), Reference()
    readings = readings.take(np.arange(min(len(readings), 10_000)))
    slow.rules = _RULES
    slow.descriptions = {1: Description(1, place=Place("station", _SOURCE_TYPE[path.parent.name]))}
    expected = [
        one
        for start in range(0, len(readings), 1000)
        for one in slow.screen(readings.take(np.arange(start, min(start + 1000, len(readings)))), "north")
    ]
    found, _ = fold(path, readings, 1000)
    assert [told(one) for one in found] == expected
    assert found


@_FILES
def test_conditions_of_a_real_station_do_not_depend_on_batches_or_restarts(path: Path) -> None:
    readings = station(path)
    readings = readings.take(np.argsort(readings.measured_at_us, kind="stable"))
    found, state = fold(path, readings, 1000)
    again, other = fold(path, readings, 377, restart_every=3)
    assert again == found
    assert_same_state(other, state)


@_FILES
def test_each_condition_of_a_real_station_has_one_episode_at_a_time(path: Path) -> None:
    changes = defaultdict[str, list[Condition]](list)
    for one in fold(path, station(path), 1000)[0]:
        changes[one.condition_id].append(one)
    for of_one in changes.values():
        is_open, seen, ended_us = False, set[int](), -(2**62)
        for one in of_one:
            assert (one.change == Change.RAISED) != is_open
            if one.change == Change.RAISED:
                assert one.began_us not in seen
                assert one.began_us >= ended_us
                seen.add(one.began_us)
            is_open = one.change != Change.CLEARED
            assert one.began_us == max(seen)
            assert (one.ended_us is None) == is_open
            ended_us = one.ended_us or ended_us
            assert one.began_us <= (one.ended_us or one.measured_us) <= one.measured_us
