"""Which moment a local time is, also in the hours that a time zone skips or has twice."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from re import compile as pattern
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidArgument

FINE, SKIPPED, TWICE = 0, 1, 2
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times have no zone yet
_DAY_US = 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)
_OFFSET = pattern(r"(?:UTC)?([+-])(\d\d):?(\d\d)")
_MOVES = np.iinfo(np.int64).min


@lru_cache(maxsize=1024)
def zone_of(name: str) -> tzinfo:
    """The zone of an IANA name, "UTC", "Z" or a fixed offset such as "+01:00". Raises InvalidArgument."""
    if name in ("UTC", "Z"):
        return UTC
    if found := _OFFSET.fullmatch(name):
        minutes = int(found[2]) * 60 + int(found[3])
        if minutes < 24 * 60:
            return timezone(timedelta(minutes=-minutes if found[1] == "-" else minutes))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        problem = f'{name[:60]!r} is no time zone; write an IANA name such as "America/New_York", "UTC", or "+01:00"'
        raise InvalidArgument(problem) from None


def to_utc(
    local_us: NDArray[np.int64], sensor_id: NDArray[np.int64], zone: tzinfo
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Local times (microseconds of the wall clock since 1970, years 1 to 9998) as UTC, and what is wrong with each.

    SKIPPED: the clock was put forward over this time, so it never was. TWICE: it was put back and had this time twice, and the
    order of the rows does not say which one is meant. It does say when a sensor's rows of the doubled hour are two passes:
    times grow, once do not grow (that is where the clock was put back), and grow again. A single pass could be either
    hour, and is never guessed. Neither kind has a meaningful result.
    """
    days, at_day = np.unique(local_us // _DAY_US, return_inverse=True)
    offsets = np.array([_offset_us(int(day), zone) for day in days], np.int64)[at_day]
    problem = np.full(len(local_us), FINE, np.uint8)
    moving = np.flatnonzero(offsets == _MOVES)
    if not len(moving):
        return local_us - offsets, problem
    utc_us = local_us - np.where(offsets == _MOVES, 0, offsets)
    first_us, second_us = _both(local_us[moving], zone)
    utc_us[moving] = first_us
    problem[moving[first_us > second_us]] = SKIPPED
    twice = first_us < second_us
    doubled = moving[twice]
    problem[doubled] = TWICE
    for rows in _each_group(local_us[doubled] // _DAY_US, sensor_id[doubled]):
        back = np.flatnonzero(np.diff(local_us[doubled[rows]]) <= 0)
        if len(back) == 1:
            problem[doubled[rows]] = FINE
            later = rows[back[0] + 1 :]
            utc_us[doubled[later]] = second_us[twice][later]
    return utc_us, problem


def is_doubled(local_us: NDArray[np.int64], zone: tzinfo) -> NDArray[np.bool_]:
    """Which of these times the clock of the zone shows twice."""
    days, at_day = np.unique(local_us // _DAY_US, return_inverse=True)
    moves = np.array([_offset_us(int(day), zone) == _MOVES for day in days], bool)[at_day]
    first_us, second_us = _both(local_us[moves], zone)
    moves[moves] = first_us < second_us
    return moves


def _both(local_us: NDArray[np.int64], zone: tzinfo) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """UTC of each time before and after the change of offset that it is nearest to (PEP 495: fold 0 and 1). Row by row: only
    for days on which the zone changes."""
    moments = [_EPOCH + timedelta(microseconds=int(time)) for time in local_us]
    offsets = [[_us(moment.replace(tzinfo=zone, fold=fold)) for moment in moments] for fold in (0, 1)]
    return local_us - np.array(offsets[0], np.int64), local_us - np.array(offsets[1], np.int64)


@lru_cache(maxsize=100_000)
def _offset_us(day: int, zone: tzinfo) -> int:
    """The zone's offset on a local day, or _MOVES when it changes then. Takes it that no zone changes twice in one day."""
    start = (_EPOCH + timedelta(days=day)).replace(tzinfo=zone)
    end = (_EPOCH + timedelta(days=day + 1)).replace(tzinfo=zone)
    offsets = {_us(moment.replace(fold=fold)) for moment in (start, end) for fold in (0, 1)}
    return offsets.pop() if len(offsets) == 1 else int(_MOVES)


def _us(moment: datetime) -> int:
    return (moment.utcoffset() or timedelta()) // _MICROSECOND


def _each_group(day: NDArray[np.int64], sensor_id: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Indexes of the rows of each sensor and day, in their order."""
    if not len(day):
        return []
    order = np.lexsort((sensor_id, day))
    changes = (np.diff(day[order]) != 0) | (np.diff(sensor_id[order]) != 0)
    return np.split(order, np.flatnonzero(changes) + 1)
