"""The alarm state machine (ISA-18.2: deadband, on and off delay) of one sensor and rule: which readings change it?

A reading is beyond the limit, or back inside by the deadband, or in between, which leaves everything as it is. What speaks
against the present state is pending from the first such reading on, until it has lasted for the delay in measured time or is
spoken against itself. A time gap ends what is pending, and leaves what is active.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from water.condition import Change
from water.parameter import PARAMETERS
from water.trouble import NEVER_US

STRONGER = 1.5  # an episode is told anew when its strongest score has grown by this
VALUE, EXPECTED, SCORE = 0, 1, 2  # rows of evidence
_EVER_US = 2**62
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Readings as rules see them: one run of rows per pair of sensor and rule, each in the order of time.

    Run p is from offsets[p] up to offsets[p + 1]. `sign`: 1 beyond the limit, -1 back inside, 0 in between or not measured.
    `gap`: history starts anew here. `score`, `severity`, `parameters` (a bit for each, by its place) count where `sign` is 1.
    `evidence` of a row with `sign` 1: value, expected and score by parameter, float32 of shape (3, parameters), score 0: none.
    """

    offsets: NDArray[np.intp]
    time_us: NDArray[np.int64]
    sign: NDArray[np.int8]
    gap: NDArray[np.bool_]
    score: NDArray[np.float32]
    severity: NDArray[np.uint8]
    parameters: NDArray[np.uint8]
    evidence: Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """What became of an episode, all of it: `told` is the strongest evidence of each parameter so far."""

    change: Change
    began_us: int
    ended_us: int | None
    severity: int
    told: NDArray[np.float32]


@dataclass(slots=True, eq=False)
class Alarm:
    """One machine; `pending_us` NEVER_US: nothing is pending."""

    on_us: int
    off_us: int
    active: bool = False
    began_us: int = NEVER_US
    pending_us: int = NEVER_US
    severity: int = 0
    told: NDArray[np.float32] = field(default_factory=lambda: np.zeros((3, len(PARAMETERS)), np.float32))

    def take(self, series: Series, row: int) -> Episode | None:
        """Takes the next reading; what it changed for others."""
        if series.gap[row]:
            self.pending_us = NEVER_US
        if not series.sign[row]:
            return None
        if (series.sign[row] > 0) == self.active:  # nothing speaks against the present state any more
            self.pending_us = NEVER_US
            return self._tell(series, row, Change.UPDATED) if self.active and self.is_more(series, row, row + 1)[0] else None
        time_us = int(series.time_us[row])
        if self.pending_us == NEVER_US:
            self.pending_us = time_us
        if time_us - self.pending_us < (self.off_us if self.active else self.on_us):
            return None
        if self.active:
            return self.end(self.pending_us)
        self.active, self.began_us, self.pending_us = True, self.pending_us, NEVER_US
        return self._tell(series, row, Change.RAISED)

    def end(self, ended_us: int) -> Episode:
        """Ends the active episode: back to the normal state."""
        episode = Episode(Change.CLEARED, self.began_us, ended_us, self.severity, self.told)
        self.active, self.began_us, self.pending_us, self.severity = False, NEVER_US, NEVER_US, 0
        self.told = np.zeros_like(self.told)
        return episode

    def is_more(self, series: Series, start: int, end: int) -> NDArray[np.bool_]:
        """Which of these rows show more than was told."""
        rows = slice(start, end)
        told = float(self.told[SCORE].max()), self.severity, bits(self.told[SCORE])
        return is_more(series.score[rows], series.severity[rows], series.parameters[rows], *told)

    def _tell(self, series: Series, row: int, change: Change) -> Episode:
        evidence = series.evidence(row)
        self.told = np.where(evidence[SCORE] > self.told[SCORE], evidence, self.told)
        self.severity = max(self.severity, int(series.severity[row]))
        return Episode(change, self.began_us, None, self.severity, self.told)


def walk(alarm: Alarm, series: Series, start: int, end: int) -> Iterator[tuple[int, Episode]]:
    """(row, what it changed) of the rows of one run. Costs grow with changes: rows that change nothing are not looked at one by
    one. Whoever stops early finds the alarm as of the last row given."""
    sign, times_us = series.sign[start:end], series.time_us[start:end].tolist()
    beyond, back, gaps = (
        (start + np.flatnonzero(those)).tolist() for those in (sign > 0, sign < 0, series.gap[start:end])
    )  # as lists, where looking for one number is quickest

    def first(rows: list[int], row: int, from_us: int = NEVER_US) -> int:
        if from_us > NEVER_US:
            row = max(row, start + bisect_left(times_us, from_us))
        at = bisect_left(rows, row)
        return rows[at] if at < len(rows) else end

    def after(row: int) -> int:
        """The first from `row` on that may change the alarm."""
        against, for_it, delay_us = (back, beyond, alarm.off_us) if alarm.active else (beyond, back, alarm.on_us)
        if alarm.pending_us != NEVER_US:
            return min(first(for_it, row), first(gaps, row), first(against, row, alarm.pending_us + delay_us))
        stop = first(against, row)
        if not alarm.active:
            return stop
        more = np.flatnonzero((series.sign[row:stop] > 0) & alarm.is_more(series, row, stop))
        return row + int(more[0]) if len(more) else stop

    row = after(start)
    while row < end:
        episode = alarm.take(series, row)
        if episode:
            yield row, episode
        row = after(row + 1)


def runs_that_change(
    series: Series, alarms: NDArray[np.void], on_us: NDArray[np.int64], off_us: NDArray[np.int64]
) -> NDArray[np.intp]:
    """The runs with a row that may change their alarm, of which there is one of dtype ALARM for each run."""
    active: NDArray[np.bool_] = alarms["active"]
    pending_us: NDArray[np.int64] = alarms["pending_us"]
    severity: NDArray[np.uint8] = alarms["severity"]
    score: NDArray[np.float32] = alarms["told"][:, SCORE]
    pending, lengths = pending_us != NEVER_US, np.diff(series.offsets)

    def each(column: NDArray[_T]) -> NDArray[_T]:
        return np.repeat(column, lengths)

    # From when on a reading beyond the limit, or back inside, is news: always, never, or once it has lasted.
    lasted_us = pending_us + np.where(active, off_us, on_us)
    beyond_us = np.where(active, np.where(pending, NEVER_US, _EVER_US), np.where(pending, lasted_us, NEVER_US))
    back_us = np.where(active, np.where(pending, lasted_us, NEVER_US), np.where(pending, NEVER_US, _EVER_US))
    told = each(score.max(axis=1)), each(severity), each(bits(score))
    more = each(active) & is_more(series.score, series.severity, series.parameters, *told)
    news = (series.sign > 0) & (more | (series.time_us >= each(beyond_us)))
    news |= (series.sign < 0) & (series.time_us >= each(back_us))
    news |= series.gap & each(pending)
    counts = np.concatenate(([0], np.cumsum(news)))
    return np.flatnonzero(np.diff(counts[series.offsets]))


def is_more(
    score: NDArray[np.float32],
    severity: NDArray[np.uint8],
    parameters: NDArray[np.uint8],
    told_score: NDArray[np.float32] | float,
    told_severity: NDArray[np.uint8] | int,
    told_parameters: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """Worth an update: a much higher score, a higher severity, or a new parameter."""
    stronger = score >= STRONGER * np.asarray(told_score, np.float64)
    more: NDArray[np.bool_] = stronger | (severity > told_severity) | ((parameters & ~told_parameters) != 0)
    return more


def bits(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Parameters with a score, a bit for each by its place; these make the last axis, which goes."""
    return np.asarray(np.packbits(scores > 0, axis=-1, bitorder="little")[..., 0])
