"""How is a day of any size brought into the order of its keys with little memory: in sorted runs on the disk, merged a few at a
time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from archive_svc.first_of_each import first_of_each, key_numbers
from archive_svc.pack import ParquetPieces, pieces_of
from archive_svc.unpacked import Unpacked, join

RUN_READINGS = 500_000
"""Readings of a run: some 45 MB while it is sorted, and as much again."""
PIECE_READINGS = 16_384
AT_ONCE = 24
"""Runs merged at a time: so many pieces are in memory."""


@dataclass(slots=True)
class Runs:
    """Takes readings in the order in which they would be put back, and gives them in the order of their keys, without
    `duplicates`. `folder` is its own: files there take some 10 bytes a reading. Everything blocks: run each step in a thread."""

    folder: Path
    duplicates: int = 0
    _waiting: list[Unpacked] = field(default_factory=list)
    _waiting_count: int = 0
    _runs: list[Path] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def add(self, found: Unpacked) -> None:
        """Readings of the region and log of those before."""
        self._waiting.append(found)
        self._waiting_count += len(found)
        if self._waiting_count >= RUN_READINGS:
            self._end_run()

    def merged(self) -> Iterator[Unpacked]:
        """Everything that was added. No piece begins with the key with which another ends. Once."""
        if not self._runs:  # it was little: never on the disk
            if self._waiting_count:
                yield self._first(join(self._waiting))
            return
        self._end_run()
        while len(self._runs) > AT_ONCE:  # neighbours only: so what came earlier stays in an earlier run
            some = [self._runs[start : start + AT_ONCE] for start in range(0, len(self._runs), AT_ONCE)]
            self._runs = [self._write(self._merge(paths)) for paths in some]
        yield from self._merge(self._runs)

    def _end_run(self) -> None:
        if self._waiting_count:
            self._runs.append(self._write(iter([self._first(join(self._waiting))])))
            self._waiting.clear()
            self._waiting_count = 0

    def _merge(self, paths: Sequence[Path]) -> Iterator[Unpacked]:
        """What the runs have, which are gone afterwards."""
        sources = [pieces_of(path) for path in paths]
        heads = [next(source, None) for source in sources]
        begin = [0] * len(paths)
        while bounds := [_last(head) for head in heads if head is not None]:
            bound = min(bounds)  # of no run anything at or before this is still to come
            some = []
            for place, head in enumerate(heads):
                if head is None:
                    continue
                end = _up_to(head, bound)
                some.append(head.take(np.arange(begin[place], end)))
                begin[place] = end
                if end == len(head):
                    heads[place], begin[place] = next(sources[place], None), 0
            yield self._first(join([one for one in some if len(one)]))
        for path in paths:
            path.unlink()

    def _write(self, pieces: Iterator[Unpacked]) -> Path:
        path = self.folder / f"{next(self._numbers)}.parquet"
        with path.open("wb") as file, ParquetPieces(file) as run:
            for piece in pieces:
                for part in between_keys(piece, PIECE_READINGS):
                    run.write(part)
        return path

    def _first(self, found: Unpacked) -> Unpacked:
        kept, duplicates = first_of_each(found)
        self.duplicates += duplicates
        return kept


def between_keys(found: Unpacked, size: int) -> Iterator[Unpacked]:
    """Pieces of about this size, cut where a key ends."""
    key = key_numbers(found.readings)
    begins = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    start = 0
    while start < len(found):
        place = int(np.searchsorted(begins, start + size))
        end = int(begins[place]) if place < len(begins) else len(found)
        yield found.take(np.arange(start, end))
        start = end


def _last(found: Unpacked) -> tuple[int, int]:
    return int(found.readings.sensor_id[-1]), int(found.readings.measured_at_us[-1])


def _up_to(found: Unpacked, bound: tuple[int, int]) -> int:
    """How many readings have a key at or before this."""
    sensor, time = found.readings.sensor_id, found.readings.measured_at_us
    begin, end = (int(np.searchsorted(sensor, bound[0], side)) for side in ("left", "right"))
    return begin + int(np.searchsorted(time[begin:end], bound[1], "right"))
