"""Which objects hold a day that is put together: one, or several where it is large, and in JSON one for each sensor."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from archive_svc.first_of_each import repeated
from archive_svc.manifest_record import PARQUET_SUFFIX, sensor_path
from archive_svc.pack import ParquetPieces
from archive_svc.pack_json import MOST_JSON_READINGS, pack_json
from archive_svc.unpacked import Unpacked, join

MOST_DAY_READINGS = 4_000_000
"""Readings after which another object is begun: some 25 to 50 MB."""
GROUP_READINGS = 200_000
"""Readings of a row group."""


@dataclass(frozen=True, slots=True)
class DayObject:
    """An object to be put, and what its manifest row says. `undecided_count`: readings that share their key with another."""

    path: str
    content: bytes
    reading_count: int
    first_us: int
    last_us: int
    undecided_count: int


def day_objects(stem: str, merged: Iterator[Unpacked], by_json: bool) -> Iterator[DayObject]:
    """The objects of readings in the order of their keys, whose pieces are cut between keys. Memory holds one of them and some
    pieces. Blocks: run each step in a thread."""
    return _by_json(stem, merged) if by_json else _by_parquet(stem, merged)


def _by_parquet(stem: str, merged: Iterator[Unpacked]) -> Iterator[DayObject]:
    groups = _groups(merged)
    group = next(groups, None)
    number = 0
    while group is not None:
        target = io.BytesIO()
        count, undecided, first_us, last_us = 0, 0, 2**62, -(2**62)
        with ParquetPieces(target) as pieces:
            while group is not None and count < MOST_DAY_READINGS:
                pieces.write(group)
                times = group.readings.measured_at_us
                first_us, last_us = min(first_us, int(times.min())), max(last_us, int(times.max()))
                count += len(group)
                undecided += len(repeated(group.readings))
                group = next(groups, None)
        yield DayObject(f"{stem}-{number:04}{PARQUET_SUFFIX}", target.getvalue(), count, first_us, last_us, undecided)
        number += 1


def _groups(merged: Iterator[Unpacked]) -> Iterator[Unpacked]:
    some: list[Unpacked] = []
    for piece in merged:
        some.append(piece)
        if sum(map(len, some)) >= GROUP_READINGS:
            yield join(some)
            some = []
    if some:
        yield join(some)


def _by_json(stem: str, merged: Iterator[Unpacked]) -> Iterator[DayObject]:
    waiting: list[Unpacked] = []
    number = 0
    for piece in merged:
        sensor = piece.readings.sensor_id
        begins = np.flatnonzero(np.r_[True, sensor[1:] != sensor[:-1]]).tolist()
        for begin, end in zip(begins, [*begins[1:], len(piece)], strict=True):
            if waiting and waiting[0].readings.sensor_id[0] != sensor[begin]:
                yield from _sensor(stem, join(waiting), number)
                waiting, number = [], 0
            waiting.append(piece.take(np.arange(begin, end)))
            if sum(map(len, waiting)) >= MOST_JSON_READINGS:
                found = list(_sensor(stem, join(waiting), number))
                yield from found
                waiting, number = [], number + len(found)
    if waiting:
        yield from _sensor(stem, join(waiting), number)


def _sensor(stem: str, found: Unpacked, number: int) -> Iterator[DayObject]:
    for start in range(0, len(found), MOST_JSON_READINGS):
        part = found.take(np.arange(start, min(len(found), start + MOST_JSON_READINGS)))
        times = part.readings.measured_at_us
        path = sensor_path(f"{stem}{PARQUET_SUFFIX}", int(part.readings.sensor_id[0]), number)
        undecided = len(repeated(part.readings))
        yield DayObject(path, pack_json(part), len(part), int(times.min()), int(times.max()), undecided)
        number += 1
