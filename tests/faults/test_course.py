"""The known content is what it claims: its conditions and no other, its resends, conflicts and refusals."""

import numpy as np

from tests.faults.course import Course
from tests.faults.truth import BACKFILL, LIVE, Sent, storable, truth_of

COURSE = Course(seed=7, number=3, start_us=1_767_225_600_000_000)
TICKS = 200


def sent(ticks: int = TICKS) -> Sent:
    everything = Sent()
    for tick in range(ticks):
        for gateway in range(COURSE.gateways):
            everything.note(COURSE.gateway_id(gateway), LIVE, COURSE.live(gateway, tick))
            everything.note(COURSE.gateway_id(gateway), BACKFILL, COURSE.backlog(gateway, tick))
    return everything


def test_the_fold_finds_the_conditions_that_were_put_in_and_no_other() -> None:
    alarms = truth_of(sent(), COURSE).alarms
    live, history = COURSE.conditions(TICKS)
    assert {condition for condition, (_, historical) in alarms.items() if not historical} == live
    assert {condition for condition, (_, historical) in alarms.items() if historical} == history
    assert len(live) == COURSE.gateways * 10
    assert len(history) == COURSE.gateways


def test_it_has_resends_conflicts_and_refusals() -> None:
    everything = sent()
    truth = truth_of(everything, COURSE)
    assert truth.accepted > len(truth.rows) + 5_000, "resends and conflicts"
    assert everything.count > truth.accepted + 200, "refusals"
    first, end = COURSE.sensor_range
    assert ((truth.rows.sensor_id >= first) & (truth.rows.sensor_id < end)).all()
    contested = [key for key in truth.others if COURSE.is_contested(np.array([key[0]]))[0]]
    assert len(contested) > 1_000
    assert len(truth.others) > len(contested) + 100


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    again = Course(COURSE.seed, COURSE.number, COURSE.start_us)
    other = Course(COURSE.seed + 1, COURSE.number, COURSE.start_us)
    live = storable(COURSE.live(2, 33))
    np.testing.assert_array_equal(storable(again.live(2, 33)).values, live.values)
    assert live.values.tobytes() != storable(other.live(2, 33)).values.tobytes()
