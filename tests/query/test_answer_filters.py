"""Questions that cannot be answered are refused, naming each field; tokens and page sizes keep their rules."""

from collections.abc import Sequence

import pytest

from mesh.errors import InvalidArgument, Unavailable
from mesh.pages import page_size, read_cursor, write_cursor
from mesh.ports import Partition
from mesh.tokens import write_position, write_token
from mesh.topics import ACCEPTED, BACKFILL
from query_svc.filters import ReadingFilter, check_filter
from query_svc.freshness import Freshness, wait_until_readable

HOUR_US = 3_600_000_000


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (ReadingFilter(tuple(range(1, 10_002))), "filter.sensor_ids"),
        (ReadingFilter((1, 0)), "filter.sensor_ids"),
        (ReadingFilter((1, -5)), "filter.sensor_ids"),
        (ReadingFilter(site_ids=tuple(map(str, range(1001)))), "filter.site_ids"),
        (ReadingFilter(site_ids=("",)), "filter.site_ids"),
        (ReadingFilter(regions=("../../etc",)), "filter.regions"),
        (ReadingFilter(regions=("x" * 21,)), "filter.regions"),
        (ReadingFilter((1,), parameters=(9,)), "filter.parameters"),
        (ReadingFilter((1,), parameters=(0,)), "filter.parameters"),
        (ReadingFilter((1,), without_flags=(5,)), "filter.without_flags"),
        (ReadingFilter((1,), start_us=5, end_us=5), "filter.end_time"),
        (ReadingFilter((1,), start_us=5, end_us=4), "filter.end_time"),
        (ReadingFilter(), "filter"),
        (ReadingFilter(start_us=0), "filter"),
        (ReadingFilter(start_us=0, end_us=HOUR_US + 1), "filter"),
    ],
)
def test_a_filter_that_cannot_be_answered_names_its_field(asked: ReadingFilter, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_filter(asked)
    assert list(caught.value.fields) == [field]


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_filter(ReadingFilter((0,), ("",), ("A",), 2, 1, (77,), (77,)))
    assert len(caught.value.fields) == 6


def test_an_hour_of_everything_is_allowed_and_questions_without_times_need_no_restriction() -> None:
    check_filter(ReadingFilter(start_us=0, end_us=HOUR_US))
    check_filter(ReadingFilter(start_us=5, end_us=1), ignore_times=True)


def test_page_sizes() -> None:
    assert [page_size(asked, 100, 1000) for asked in (0, 1, 1000, 1001, 2**31 - 1)] == [100, 1, 1000, 1000, 1000]
    with pytest.raises(InvalidArgument) as caught:
        page_size(-1, 100, 1000)
    assert list(caught.value.fields) == ["page_size"]


FORGED: tuple[dict[str, object], ...] = (
    {"q": "q1"},
    {"q": 1, "a": ["a"]},
    {"q": "q1", "a": [1]},
    {"q": "q1", "a": ["a", "b"]},
    {"q": "q1", "a": ["a\0"]},
    {"q": "q1", "a": ["\ud800"]},
)


def test_a_cursor_returns_only_to_its_own_question() -> None:
    token = write_cursor("sites", "q1", ["a"])
    assert read_cursor("sites", "q1", token, [str]) == ("a",)
    assert read_cursor("sites", "q1", "", [str]) is None
    forged = [write_token("sites", content) for content in FORGED]
    for bad in (write_cursor("sites", "q2", ["a"]), write_cursor("sensors", "q1", ["a"]), "x", *forged):
        with pytest.raises(InvalidArgument):
            read_cursor("sites", "q1", bad, [str])
    with pytest.raises(InvalidArgument):
        read_cursor("sensors", "q1", write_token("sensors", {"q": "q1", "a": [2**64]}), [int])


class OneShard:
    """Has everything up to some offsets; remembers how long it was asked to wait."""

    def __init__(self, recorded: dict[Partition, int]) -> None:
        self._recorded = recorded
        self.waits: list[float] = []

    async def wait_for(self, wanted: dict[Partition, int], wait_s: float, sensor_ids: Sequence[int] = ()) -> bool:
        self.waits.append(wait_s)
        return all(self._recorded.get(partition, -1) >= offset for partition, offset in wanted.items())


async def test_freshness_waits_for_the_newest_position_of_each_partition_and_says_when_to_ask_again() -> None:
    shard = OneShard({Partition(ACCEPTED, 0): 7, Partition(BACKFILL, 1): 3})
    tokens = [write_position("log", ACCEPTED, 0, offset) for offset in (7, 2)] + [write_position("log", BACKFILL, 1, 3)]
    await wait_until_readable(shard, "log", Freshness(tokens, 2.5))  # type: ignore[arg-type]
    await wait_until_readable(shard, "log", Freshness())  # type: ignore[arg-type]
    for asked_s in (0.0, 3600.0):
        with pytest.raises(Unavailable) as caught:
            await wait_until_readable(shard, "log", Freshness([write_position("log", ACCEPTED, 0, 8)], asked_s))  # type: ignore[arg-type]
        assert (caught.value.reason, caught.value.retry_after_s) == ("NOT_YET_READABLE", 1.0)
    assert shard.waits == [2.5, 5.0, 60.0]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Freshness(["x"]), "freshness.at_least[0]"),
        (Freshness([write_position("another", ACCEPTED, 0, 1)]), "freshness.at_least[0]"),
        (Freshness([write_position("log", "dead", 0, 1)]), "freshness.at_least[0]"),
        (Freshness([write_token("position", {"log": "log", "at": "?"})]), "freshness.at_least[0]"),
        (Freshness([write_position("log", ACCEPTED, 0, 1)] * 101), "freshness.at_least"),
        (Freshness([], -0.1), "freshness.wait_duration"),
    ],
)
async def test_impossible_freshness_is_refused(asked: Freshness, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await wait_until_readable(OneShard({}), "log", asked)  # type: ignore[arg-type]
    assert list(caught.value.fields) == [field]
