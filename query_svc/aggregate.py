"""What is the next page of an aggregate: series by group and parameter, with whole groups computed together?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mesh.errors import InvalidArgument, TooLarge
from mesh.shards import Shards
from query_svc.buckets import Buckets
from query_svc.groups import Chunk, Grouping, Groups
from query_svc.percentile import MOST_VALUES, distribution
from query_svc.places import Places
from query_svc.selection import Selection
from query_svc.series import Series, Statistics, cut_series
from query_svc.sums import MOST_BUCKETS, sums
from water import flags as qartod

MOST_PERCENTILES = 5
MOST_POINTS = 50_000
"""Buckets in one page, so that it stays below the 4 MiB that gRPC clients take by default."""
MOST_GROUPS_TOGETHER = 10_000
NARROWEST_US = 1_000_000
WIDEST_US = 100 * 366 * 24 * 3_600_000_000


@dataclass(frozen=True, slots=True)
class AggregateQuestion:
    """What to compute, besides the filter. `bucket_us` None: one bucket."""

    bucket_us: int | None = None
    grouping: Grouping = Grouping.SENSOR
    percentiles: tuple[float, ...] = ()
    include_failed: bool = False


class After(NamedTuple):
    """The last series of the page before."""

    key: int | str
    parameter: int


class Page(NamedTuple):
    """Series, and the place to go on after when there are more."""

    series: list[Series]
    next: After | None


def check_question(asked: AggregateQuestion, without_flags: Sequence[int]) -> None:
    """Raises InvalidArgument that names every problem by its field path."""
    problems = {}
    if asked.bucket_us is not None and not NARROWEST_US <= asked.bucket_us <= WIDEST_US:
        problems["bucket_duration"] = f"{asked.bucket_us / 1e6:g} s: at least 1 s, at most 100 years, or unset for one bucket"
    if len(asked.percentiles) > MOST_PERCENTILES:
        problems["percentiles"] = f"{len(asked.percentiles)} given, at most {MOST_PERCENTILES}"
    wrong = [percentile for percentile in asked.percentiles if not 0 <= percentile <= 100]
    if wrong:
        problems["percentiles"] = f"{wrong[0]:g} is not within 0 to 100"
    if asked.include_failed and qartod.FAIL in without_flags:
        problems["include_failed"] = "contradicts filter.without_flags, which leaves FAIL out"
    if problems:
        listed = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
        raise InvalidArgument(listed, fields=problems)


async def aggregate(
    shards: Shards, places: Places, selection: Selection, asked: AggregateQuestion, after: After | None, size: int
) -> Page:
    """Up to `size` series behind `after`, by group and parameter; fewer when there are no more, or when the page has 50,000
    buckets. Raises TooLarge (TOO_MANY_BUCKETS, TOO_MANY_VALUES) when one group alone is too much."""
    groups = Groups(shards, places, selection, asked.grouping)
    buckets = Buckets(asked.bucket_us, asked.include_failed)
    per_group = len(selection.parameters)
    together = math.ceil((size + 1) / per_group)
    series: list[Series] = []
    key, including = (after.key, after.parameter < selection.parameters[-1].number) if after else (None, False)
    while len(series) <= size and sum(map(len, series)) <= MOST_POINTS:
        chunk = await groups.after(key, together, including=including)
        if chunk is None:
            break
        found = await _statistics(shards, chunk, buckets, asked.percentiles)
        if found is None:
            together = math.ceil(len(chunk.keys) / 2)
            continue
        new = list(cut_series(found, chunk.keys))
        series += [one for one in new if after is None or one.key != after.key or one.parameter > after.parameter]
        key, including = chunk.keys[-1], False
        together = together if new else min(2 * together, MOST_GROUPS_TOGETHER)
    return _page(series, size)


async def _statistics(shards: Shards, chunk: Chunk, buckets: Buckets, percentiles: Sequence[float]) -> Statistics | None:
    """None: too much at once, but the chunk has several groups. Raises TooLarge when it has one."""
    if percentiles:
        found = await distribution(shards, chunk, buckets, percentiles)
        reason, problem = "TOO_MANY_VALUES", f"has more than {MOST_VALUES:,} distinct values on one shard"
    else:
        found = await sums(shards, chunk, buckets)
        reason, problem = "TOO_MANY_BUCKETS", f"has more than {MOST_BUCKETS:,} buckets"
    if found is None and len(chunk.keys) == 1:
        message = f"group {chunk.keys[0]!r} {problem}: ask for a shorter time, wider buckets or fewer parameters"
        raise TooLarge(message, reason=reason, metadata={"group": str(chunk.keys[0])})
    return found


def _page(series: list[Series], size: int) -> Page:
    """Raises TooLarge (TOO_MANY_BUCKETS) when not even one series fits."""
    ends = np.cumsum([len(one) for one in series[:size]])
    count = int(np.searchsorted(ends, MOST_POINTS, "right"))
    if series and not count:
        message = f"a series of {len(series[0]):,} buckets, at most {MOST_POINTS:,}: ask for a shorter time or wider buckets"
        raise TooLarge(message, reason="TOO_MANY_BUCKETS", metadata={"group": str(series[0].key)})
    page = series[:count]
    return Page(page, After(page[-1].key, page[-1].parameter) if count < len(series) else None)
