"""What a changed alert says to people and machines outside."""

import json

import pytest
from waterquality.v1 import alert_pb2 as pb

from mesh.codec.notices import MOST_EVIDENCE, MOST_HISTORY, read_notice
from mesh.codec.times import write_time
from mesh.errors import InvalidArgument
from tests.builders import START_US

NONE, NEW, SEEN, BACK, SHELVED, SUPPRESSED, OUT, OVER = range(8)


def an_alert(before: int, after: int, actor: str = "ines", comment: str = "") -> pb.Alert:
    step = pb.AlertEvent(time=write_time(START_US), actor=actor, comment=comment)
    step.from_state, step.to_state = before, after  # type: ignore[assignment]
    alert = pb.Alert(alert_id=7, history=[step], sensor_id=4711)
    alert.state = after  # type: ignore[assignment]
    return alert


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (NONE, NEW, "raised"),
        (NEW, SEEN, "acknowledged"),
        (NEW, BACK, "returned"),
        (BACK, NEW, "reraised"),
        (SEEN, NEW, "reraised"),
        (SEEN, OVER, "resolved"),
        (BACK, OVER, "resolved"),
        (NEW, SHELVED, "shelved"),
        (SHELVED, NEW, "unshelved"),
        (SHELVED, OVER, "resolved"),
        (NEW, SUPPRESSED, "suppressed"),
        (NEW, OUT, "out_of_service"),
        (NEW, 99, "updated"),
    ],
)
def test_the_change_is_named_by_the_states_that_it_joins(before: int, after: int, change: str) -> None:
    assert read_notice(an_alert(before, after).SerializeToString()).change == change


def test_a_change_within_a_state_is_a_rise_of_severity_or_a_remark() -> None:
    assert read_notice(an_alert(NEW, NEW, "system", "severity 3 to 5").SerializeToString()).change == "escalated"
    assert read_notice(an_alert(NEW, NEW, "ines", "on my way").SerializeToString()).change == "commented"
    assert read_notice(an_alert(NEW, NEW).SerializeToString()).change == "updated"


def test_names_are_those_of_the_contract_and_what_is_newer_is_a_number() -> None:
    alert = an_alert(NONE, NEW)
    alert.kind = pb.CONDITION_KIND_CONTAMINATION
    said = read_notice(alert.SerializeToString())
    assert (said.state, said.kind, said.changed_us, said.actor) == ("UNACKNOWLEDGED", "CONTAMINATION", START_US, "ines")
    alert.kind = 77  # type: ignore[assignment]
    assert read_notice(alert.SerializeToString()).kind == "77"


def test_the_data_is_plain_json_with_every_field_and_a_bounded_history() -> None:
    alert = an_alert(NONE, NEW)
    for number in range(50):
        alert.history.add(comment=f"remark {number}", from_state=pb.ALERT_STATE_ACKNOWLEDGED)
        alert.evidence.add(value=float("nan"))
    data = json.loads(json.dumps(read_notice(alert.SerializeToString()).data, allow_nan=False))
    assert (data["alert_id"], data["sensor_id"], data["severity_level"], data["historical"]) == ("7", "4711", 0, False)
    assert [step["comment"] for step in data["history"]] == [f"remark {number}" for number in range(50 - MOST_HISTORY, 50)]
    assert len(data["evidence"]) == MOST_EVIDENCE


def test_bytes_that_are_no_alert_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="not a readable Alert"):
        read_notice(b"\xff\xff")
