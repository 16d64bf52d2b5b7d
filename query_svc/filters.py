"""Which readings does a caller ask for, and is that a question that can be answered?"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mesh.errors import InvalidArgument
from mesh.tokens import fingerprint
from water.parameter import BY_NUMBER

MOST_SENSORS = 10_000
MOST_SITES = 1_000
MOST_REGIONS = 1_000
LONGEST_UNRESTRICTED_US = 3_600_000_000
FLAGS = (1, 2, 3, 4, 9)
_REGION = re.compile(r"[a-z0-9_-]{1,20}")


@dataclass(frozen=True, slots=True)
class ReadingFilter:
    """All conditions hold together; an empty one does not restrict. Times are microseconds since 1970, `end_us` excluded;
    `parameters` and `without_flags` are numbers of the contract."""

    sensor_ids: tuple[int, ...] = ()
    site_ids: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    start_us: int | None = None
    end_us: int | None = None
    parameters: tuple[int, ...] = ()
    without_flags: tuple[int, ...] = ()

    @property
    def restricted(self) -> bool:
        """Whether it names sensors, sites or regions."""
        return bool(self.sensor_ids or self.site_ids or self.regions)

    def fingerprint(self, *more: object) -> str:
        """The same for the same question, in whatever order its parts are named. `more`: what else the question holds."""
        sensors = np.unique(np.array(self.sensor_ids, np.int64)).tobytes()
        names = [sorted(set(part)) for part in (self.site_ids, self.regions)]
        numbers = [sorted(set(part)) for part in (self.parameters, self.without_flags)]
        rest = (
            names,
            numbers,
            self.start_us,
            self.end_us,
            *more,
        )
        return fingerprint(sensors, repr(rest).encode())


def check_filter(asked: ReadingFilter, *, ignore_times: bool = False) -> None:
    """Raises InvalidArgument that names every problem by its field path. `ignore_times`: the question has no time range, and
    may be about all sensors."""
    problems: dict[str, str] = {}
    _check_lists(asked, problems)
    if not ignore_times:
        _check_times(asked, problems)
    if problems:
        listed = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
        raise InvalidArgument(listed, reason="INVALID_FILTER", fields=problems)


def _check_lists(asked: ReadingFilter, problems: dict[str, str]) -> None:
    for field, given, most in (
        ("sensor_ids", asked.sensor_ids, MOST_SENSORS),
        ("site_ids", asked.site_ids, MOST_SITES),
        ("regions", asked.regions, MOST_REGIONS),
    ):
        if len(given) > most:
            problems[f"filter.{field}"] = f"{len(given)} given, at most {most} in one question"
    wrong_sensor = next((sensor for sensor in asked.sensor_ids if sensor <= 0), None)
    if wrong_sensor is not None:
        problems["filter.sensor_ids"] = f"{wrong_sensor} is no sensor id: they are positive"
    wrong_region = next((region for region in asked.regions if not _REGION.fullmatch(region)), None)
    if wrong_region is not None:
        problems["filter.regions"] = f"{wrong_region!r} is no region: 1 to 20 characters of a-z 0-9 _ -"
    if "" in asked.site_ids:
        problems["filter.site_ids"] = "an empty site id: leave it out"
    _check_known("parameters", asked.parameters, BY_NUMBER, problems)
    _check_known("without_flags", asked.without_flags, FLAGS, problems)


def _check_known(field: str, given: Iterable[int], known: Iterable[int], problems: dict[str, str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        problems[f"filter.{field}"] = f"{unknown[0]} is not one of {', '.join(map(str, known))}"


def _check_times(asked: ReadingFilter, problems: dict[str, str]) -> None:
    start, end = asked.start_us, asked.end_us
    if start is not None and end is not None and start >= end:
        problems["filter.end_time"] = "not after start_time: nothing can lie between them"
    elif not asked.restricted and (start is None or end is None or end - start > LONGEST_UNRESTRICTED_US):
        problems["filter"] = "name sensors, sites or regions, or a start_time and an end_time at most one hour apart"
