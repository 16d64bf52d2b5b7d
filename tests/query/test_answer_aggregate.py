"""Statistics computed beside the data on two shards equal those of numpy on the same values."""

from collections.abc import AsyncIterator, Callable, Hashable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import query_svc.aggregate
import query_svc.percentile
import query_svc.sums
from mesh.errors import InvalidArgument, TooLarge
from query_svc.aggregate import AggregateQuestion
from query_svc.answer import Paging
from query_svc.filters import ReadingFilter
from query_svc.groups import Grouping
from query_svc.percentile import percentiles_of
from query_svc.series import Series
from tests.builders import SECOND_US, START_US, a_reading, readings_of
from tests.query.answering import NOW, SENSOR_COUNT, Answering, answering, flags_of, random_readings
from tests.query.deployment import FreshDatabase, flag

HOUR_US = 3600 * SECOND_US
ALL = ReadingFilter(sensor_ids=tuple(range(1, SENSOR_COUNT + 1)))
SITES = {"a": [1, 2, 3], "b": [4, 5, 6, 7]}
PERCENTILES = (0.0, 12.5, 50.0, 97.3, 100.0)

Buckets = dict[tuple[Hashable, int, int], np.ndarray]


@pytest.fixture
async def asked(fresh_database: FreshDatabase) -> AsyncIterator[Answering]:
    async with answering(fresh_database) as made:
        yield made


async def all_pages(asked: Answering, question: ReadingFilter, what: AggregateQuestion, size: int) -> list[Series]:
    series: list[Series] = []
    token = ""
    while True:
        found, token = await asked.answer.aggregate(question, what, Paging(size, token), NOW)
        assert len(found) <= size
        series += found
        if not token:
            return series
        assert found


def buckets_of(
    asked: Answering, question: ReadingFilter, what: AggregateQuestion, group: Callable[[int, str], Hashable]
) -> Buckets:
    """The values that count, by group, parameter and bucket, found one by one."""
    stored, regions, flags = asked.stored, asked.regions, flags_of(asked.stored)
    without = set(question.without_flags) | (set() if what.include_failed else {4})
    found: dict[tuple[Hashable, int, int], list[np.float32]] = {}
    for index, (sensor, at_us) in enumerate(zip(stored.sensor_id.tolist(), stored.measured_at_us.tolist(), strict=True)):
        key = group(sensor, str(regions[index]))
        if key is None or not (question.start_us or 0) <= at_us < (question.end_us or 2**62):
            continue
        bucket = question.start_us or 0 if what.bucket_us is None else at_us - at_us % what.bucket_us
        for row in range(8):
            asked_for = not question.parameters or row + 1 in question.parameters
            value = stored.values[row, index]
            if asked_for and not np.isnan(value) and flags[row, index] not in without:
                found.setdefault((key, row + 1, bucket), []).append(value)
    return {key: np.array(values, np.float32) for key, values in found.items()}


def assert_equal(series: list[Series], wanted: Buckets, percentiles: tuple[float, ...] = ()) -> None:
    order = [(one.key, one.parameter) for one in series]
    assert order == sorted(set(order))
    found = {(one.key, one.parameter, at): (one, row) for one in series for row, at in enumerate(one.bucket_start_us.tolist())}
    assert found.keys() == wanted.keys()
    for key, (one, row) in found.items():
        values = wanted[key]
        assert one.count[row] == len(values)
        assert (one.min[row], one.max[row]) == (values.min(), values.max())
        assert one.mean[row] == pytest.approx(values.astype(np.float64).mean(), rel=1e-12, abs=1e-300)
        exact = np.percentile(values.astype(np.float64), percentiles) if percentiles else np.empty(0)
        assert one.percentiles[:, row].tolist() == pytest.approx(exact.astype(np.float32).tolist(), rel=1e-7)
    for one in series:
        assert (np.diff(one.bucket_start_us) > 0).all()


GROUPS: dict[Grouping, Callable[[int, str], Hashable]] = {
    Grouping.SENSOR: lambda sensor, region: sensor,
    Grouping.SITE: lambda sensor, region: next((site for site, sensors in SITES.items() if sensor in sensors), None),
    Grouping.REGION: lambda sensor, region: region,
    Grouping.ALL: lambda sensor, region: "",
}


async def fill(asked: Answering) -> None:
    await asked.store(random_readings(700, period_s=600), "north")
    await asked.store(random_readings(500, seed=2, period_s=600, start=START_US + 100 * HOUR_US), "south")
    await asked.put_sensors_at(SITES)


async def test_every_grouping_equals_numpy_with_and_without_percentiles(asked: Answering) -> None:
    await fill(asked)
    for grouping, group in GROUPS.items():
        for percentiles in ((), PERCENTILES):
            what = AggregateQuestion(3 * HOUR_US, grouping, percentiles)
            wanted = buckets_of(asked, ALL, what, group)
            for size in (3, 1000):
                assert_equal(await all_pages(asked, ALL, what, size), wanted, percentiles)


async def test_filters_hold_for_aggregates_too(asked: Answering) -> None:
    await fill(asked)
    questions = (
        ReadingFilter(
            ALL.sensor_ids, parameters=(1, 4), without_flags=(3,), start_us=START_US + HOUR_US, end_us=START_US + 99 * HOUR_US
        ),
        ReadingFilter(regions=("north",), without_flags=(4,)),
        ReadingFilter(regions=("south", "east")),
        ReadingFilter(start_us=START_US, end_us=START_US + HOUR_US),
    )
    for question in questions:
        for grouping, group in GROUPS.items():
            for percentiles in ((), (50.0,)):
                what = AggregateQuestion(HOUR_US, grouping, percentiles)

                def within(sensor: int, region: str) -> Hashable:
                    return group(sensor, region) if not question.regions or region in question.regions else None  # noqa: B023

                assert_equal(await all_pages(asked, question, what, 7), buckets_of(asked, question, what, within), percentiles)


async def test_failed_values_count_only_when_asked_for_and_one_bucket_starts_where_the_filter_does(asked: Answering) -> None:
    await fill(asked)
    for start_us in (None, START_US + HOUR_US):
        question = ReadingFilter(ALL.sensor_ids, start_us=start_us)
        what = AggregateQuestion(None, Grouping.ALL, include_failed=True)
        assert_equal(await all_pages(asked, question, what, 5), buckets_of(asked, question, what, GROUPS[Grouping.ALL]))
    contradiction = ReadingFilter(ALL.sensor_ids, without_flags=(4,))
    with pytest.raises(InvalidArgument, match="include_failed"):
        await asked.answer.aggregate(contradiction, what, Paging(), NOW)


async def test_buckets_before_1970_are_aligned_too(asked: Answering) -> None:
    await asked.store(flag(readings_of((1, -1, {"ph": 5.0}), (1, 0, {"ph": 7.0}))))
    (series,) = await all_pages(asked, ReadingFilter((1,)), AggregateQuestion(HOUR_US), 5)
    assert series.bucket_start_us.tolist() == [-HOUR_US, 0]


async def test_a_token_of_another_aggregate_is_refused(asked: Answering) -> None:
    await fill(asked)
    what = AggregateQuestion(HOUR_US)
    _, token = await asked.answer.aggregate(ALL, what, Paging(2), NOW)
    for other in (
        AggregateQuestion(2 * HOUR_US),
        AggregateQuestion(HOUR_US, percentiles=(5.0,)),
        AggregateQuestion(HOUR_US, Grouping.SITE),
    ):
        with pytest.raises(InvalidArgument, match="page_token"):
            await asked.answer.aggregate(ALL, other, Paging(2, token), NOW)


async def test_too_much_for_one_answer_is_an_error_and_too_much_together_is_taken_apart(
    asked: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(asked)
    monkeypatch.setattr(query_svc.sums, "MOST_BUCKETS", 20)
    monkeypatch.setattr(query_svc.percentile, "MOST_VALUES", 200)
    monkeypatch.setattr(query_svc.aggregate, "MOST_POINTS", 50)
    for percentiles, reason in (((), "TOO_MANY_BUCKETS"), ((50.0,), "TOO_MANY_VALUES")):
        what = AggregateQuestion(24 * HOUR_US, percentiles=percentiles)
        assert_equal(await all_pages(asked, ALL, what, 1000), buckets_of(asked, ALL, what, GROUPS[Grouping.SENSOR]), percentiles)
        with pytest.raises(TooLarge) as caught:
            await all_pages(asked, ALL, AggregateQuestion(SECOND_US, Grouping.ALL, percentiles), 1000)
        assert caught.value.reason == reason


async def test_wrong_questions_are_refused_by_their_fields(asked: Answering) -> None:
    for what, field in (
        (AggregateQuestion(SECOND_US - 1), "bucket_duration"),
        (AggregateQuestion(-SECOND_US), "bucket_duration"),
        (AggregateQuestion(percentiles=(1.0,) * 6), "percentiles"),
        (AggregateQuestion(percentiles=(100.1,)), "percentiles"),
        (AggregateQuestion(percentiles=(float("nan"),)), "percentiles"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await asked.answer.aggregate(ALL, what, Paging(), NOW)
        assert list(caught.value.fields) == [field]


async def test_sensors_without_any_value_make_no_series_and_no_endless_search(asked: Answering) -> None:
    await asked.store(flag(a_reading(9_999)))
    question = ReadingFilter(tuple(range(1, 10_001)))
    assert [one.key for one in await all_pages(asked, question, AggregateQuestion(), 10)] == [9_999]


@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.integers(1, 8),
    st.lists(st.floats(0, 100), min_size=1, max_size=5),
)
def test_percentiles_from_value_counts_are_those_of_all_values(values: np.ndarray, groups: int, asked: list[float]) -> None:
    parts = [part for part in np.array_split(values, groups) if len(part)]
    pairs = [np.unique(part, return_counts=True) for part in parts]
    starts = np.cumsum([0, *(len(value) for value, _ in pairs)])[:-1]
    value, count = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
    found = percentiles_of(value, count, starts, asked)
    for column, part in zip(found.T, parts, strict=True):
        assert column == pytest.approx(np.percentile(part.astype(np.float64), asked), rel=1e-6, abs=1e-6)
