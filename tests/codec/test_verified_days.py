"""The archive's word of which days it holds comes back as it was said, and says no more than it does."""

import pytest

from mesh.codec.verified_days import DAY_US, is_verified, read_verified, verified_folder, write_verified
from mesh.errors import InvalidArgument

UNTIL = {("screened", 0): 41, ("screened", 1): 7, ("screened_backfill", 0): 3}
DAY = 20_000 * DAY_US


def test_what_is_written_is_read() -> None:
    path, content = write_verified("log-1", UNTIL, DAY, [DAY - 2 * DAY_US], 5)
    said = read_verified(path, content)
    assert (said.log_id, dict(said.until), said.before_us, set(said.unverified), said.said_us) == (
        "log-1",
        UNTIL,
        DAY,
        {DAY - 2 * DAY_US},
        5,
    )
    assert is_verified(path)
    assert path.startswith(verified_folder("log-1"))
    assert write_verified("log-1", UNTIL, DAY, [DAY - 2 * DAY_US], 5) == (path, content)


def test_a_day_is_held_when_it_is_over_verified_and_archived_as_far_as_it_was_recorded() -> None:
    said = read_verified(*write_verified("log-1", UNTIL, DAY, [DAY - 2 * DAY_US], 5))
    assert said.holds(DAY - DAY_US, UNTIL)
    assert said.holds(DAY - DAY_US, {("screened", 0): -1, ("screened", 9): -1})
    assert not said.holds(DAY - DAY_US, UNTIL | {("screened", 1): 8})
    assert not said.holds(DAY - DAY_US, {("screened", 9): 0})
    assert not said.holds(DAY - 2 * DAY_US, {})
    assert not said.holds(DAY, {})
    with pytest.raises(ValueError, match="begin of a UTC day"):
        said.holds(DAY + 1, {})


@pytest.mark.parametrize("old", [b'"before_us": 1', b'"until"', b"log-1", b"41"])
def test_what_is_no_such_word_is_refused(old: bytes) -> None:
    path, content = write_verified("log-1", UNTIL, 1, [], 5)
    assert old in content
    for wrong in ((path, content.replace(old, b"7")), ("manifest/log-1/verified/x.txt", content), (path, content[:-3])):
        with pytest.raises(InvalidArgument) as error:
            read_verified(*wrong)
        assert error.value.reason == "UNREADABLE_OBJECT"
