"""What a sender may conclude from the ledger (law 1), and when readings of a file are due."""

import numpy as np
import pytest

from mesh.errors import InvalidArgument
from wq.pace import Pace, read_speed
from wq.proof import Sent, disagreements
from wq.totals import Totals

SENT = Sent(handed_over=100, transmitted=100, acknowledged=100, refused={"NO_VALUES": 10}, reconnects=0)
RIGHT = Totals(accepted=90, refused={"NO_VALUES": 10}, stored=60, duplicate=20, conflicting=10)


def _change(**different: object) -> Totals:
    return Totals(**({name: getattr(RIGHT, name) for name in Totals.__slots__} | different))


def test_a_ledger_that_has_exactly_what_was_sent_agrees() -> None:
    assert disagreements(SENT, RIGHT, balanced=True) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_change(accepted=89, stored=59), "100 readings were sent, the ledger has 99"),
        (_change(accepted=91, stored=61), "the ledger has 101"),
        (_change(accepted=90, refused={"TOO_OLD": 10}), "refused here: NO_VALUES 10; in the ledger: TOO_OLD 10"),
        (_change(stored=59), "90 were accepted, 89 are stored"),
        (_change(stored=55, dead_at_record=5), "5 readings are dead"),
        (_change(archived=89), "90 were accepted, 89 are archived or dead"),
        (_change(archived=88, dead_at_archive=2), "2 readings are dead"),
    ],
)
def test_every_difference_is_a_problem(change: Totals, words: str) -> None:
    assert any(words in problem for problem in disagreements(SENT, change, balanced=True))


def test_a_ledger_of_a_mesh_with_an_archive_agrees_when_all_of_it_is_archived() -> None:
    assert disagreements(SENT, _change(archived=90), balanced=True) == []


def test_a_ledger_that_does_not_balance_is_a_problem() -> None:
    assert disagreements(SENT, RIGHT, balanced=False) == ["the ledger of this gateway does not balance"]


@pytest.mark.parametrize(("accepted", "agrees"), [(89, False), (90, True), (110, True), (140, True), (141, False)])
def test_with_a_reconnect_the_ledger_lies_between_handed_over_and_transmitted(accepted: int, agrees: bool) -> None:
    sent = Sent(handed_over=100, transmitted=150, acknowledged=100, refused={"NO_VALUES": 10}, reconnects=2)
    change = Totals(accepted=accepted, refused={"NO_VALUES": 10}, stored=accepted)
    assert (disagreements(sent, change, balanced=True) == []) is agrees


def test_totals_subtract_reason_by_reason() -> None:
    before = Totals(accepted=5, refused={"NO_VALUES": 2, "TOO_OLD": 1}, stored=5)
    after = Totals(accepted=7, refused={"NO_VALUES": 2, "TOO_OLD": 4, "NOT_FINITE": 1}, stored=6, duplicate=1)
    assert after.since(before) == Totals(accepted=2, refused={"NOT_FINITE": 1, "TOO_OLD": 3}, stored=1, duplicate=1)


@pytest.mark.parametrize(("text", "speed"), [("max", None), ("realtime", 1.0), ("60x", 60.0), ("0.5x", 0.5)])
def test_speeds(text: str, speed: float | None) -> None:
    assert read_speed(text) == speed


@pytest.mark.parametrize("text", ["", "fast", "0x", "-1x", "60", "infx"])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no speed"):
        read_speed(text)


def test_readings_are_due_in_the_rhythm_of_their_measurement_and_late_ones_at_once() -> None:
    pace = Pace(60.0)
    assert pace.due_s(np.array([0, 60, 120], np.int64) * 1_000_000 + 5).tolist() == [0, 1, 2]
    assert pace.due_s(np.array([30, 180], np.int64) * 1_000_000 + 5).tolist() == [2, 3]
