"""Conditions: what a piece of readings begins, changes and ends, by the rules in force and the built-in detector."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from water.alarm import Alarm, Series, runs_that_change, walk
from water.condition import Condition
from water.fast_change import fast_change
from water.limit_series import limit_series
from water.limits import Limits
from water.piece import Piece, runs_of
from water.rulebook import OUT_OF_SERVICE, Rulebook
from water.sight import Sight, broken, is_quiet, see
from water.state import State
from water.telling import Telling
from water.trouble import ALARM, FAST, NEVER_US, Troubles

NEW = -1


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Sensors, as indexes into the piece's, and rules, by number, whose alarms may change; `row`: where one stands, or NEW."""

    sensor: NDArray[np.intp]
    rule: NDArray[np.intp]
    row: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: NDArray[np.bool_]) -> "Pairs":
        """Some of them."""
        return Pairs(self.sensor[which], self.rule[which], self.row[which])


def judge(state: State, piece: Piece, limits: Limits, book: Rulebook, region: str, most: int) -> list[Condition]:
    """Moves the state's troubles on. At most `most`: where there would be more, alarms take no notice of the rest of this piece.

    An alarm whose rule is not for its sensor any more ends with the sensor's next reading, as of the last that showed it.
    """
    troubles = state.troubles
    profile = book.profile_of(region, piece.sensors, piece.found)
    rows, sensor = troubles.alarms.find(piece.sensors)
    moved = troubles.fast.find(piece.sensors)
    if not len(rows) and not len(moved[0]) and is_quiet(piece, limits, book.profiles, profile):
        return []

    sight = see(piece, limits)
    telling = Telling(piece, book, most)
    stored = Pairs(sensor, _numbers(troubles, rows, book), rows)
    holds = _holds(stored, troubles.alarms.table[rows], profile, book)
    gone = _end(stored.take(~holds), troubles, piece, telling)
    stored = stored.take(holds)
    is_detectors = stored.rule == book.detector

    limited = _with(stored.take(~is_detectors), *broken(sight, piece, book.profiles, profile), book)
    detected = _with(stored.take(is_detectors), *_moved(sight, piece, moved[1], profile, book), book)
    by_limits = by_detector = np.empty(0, ALARM)
    if len(limited):
        series = limit_series(piece, sight.judged, sight.gap, book, runs_of(piece, limited.sensor), limited.rule)
        by_limits = _advance(troubles, piece, limited, series, book, telling)
    if len(detected) or len(moved[0]):
        series = _watch(troubles, piece, sight, detected.sensor, moved)
        by_detector = _advance(troubles, piece, detected, series, book, telling)

    alarms = np.concatenate((troubles.alarms.table[gone], by_limits, by_detector))
    stays = (alarms["active"] | (alarms["pending_us"] != NEVER_US)) & (np.arange(len(alarms)) >= len(gone))
    troubles.alarms.settle(np.concatenate((gone, limited.row, detected.row)), alarms, stays)
    return telling.conditions


def _numbers(troubles: Troubles, rows: NDArray[np.intp], book: Rulebook) -> NDArray[np.intp]:
    """The rule of each of these alarms as the book numbers it; -1: not in force."""
    names, name = np.unique(troubles.alarms.table["rule"][rows], return_inverse=True)
    return np.array([book.number_of(troubles.names[number]) for number in names.tolist()], np.intp)[name]


def _holds(stored: Pairs, alarms: NDArray[np.void], profile: NDArray[np.intp], book: Rulebook) -> NDArray[np.bool_]:
    """Which alarms' rules are still for their sensors, and still judge the same."""
    judged = book.profiles.judged
    key = profile[stored.sensor] * (book.detector + 1) + stored.rule
    at = np.minimum(np.searchsorted(judged, key), len(judged) - 1)
    same = (book.parameter[stored.rule] == alarms["parameter"]) & (book.statistic[stored.rule] == alarms["statistic"])
    holds: NDArray[np.bool_] = (judged[at] == key) & (stored.rule >= 0) & same
    return holds


def _end(pairs: Pairs, troubles: Troubles, piece: Piece, telling: Telling) -> NDArray[np.intp]:
    """Ends these alarms where their sensors gave something new; their rows."""
    ended = []
    alarms = troubles.alarms.table[pairs.row]
    for index, (sensor, number) in enumerate(zip(pairs.sensor.tolist(), alarms["rule"].tolist(), strict=True)):
        start, end = piece.starts[sensor], piece.starts[sensor] + piece.counts[sensor]
        fresh = np.flatnonzero(piece.fresh[start:end])
        if not len(fresh) or telling.is_full:
            continue
        alarm, record = _alarm(alarms[index], 0, 0), alarms[index]
        if alarm.active:
            measured_us = int(piece.time_us[start + fresh[0]])
            episode = alarm.end(int(record["shown_us"]))
            telling.tell(sensor, troubles.names[number], int(record["statistic"]), measured_us, episode)
        ended.append(pairs.row[index])
    return np.array(ended, np.intp)


def _with(stored: Pairs, sensor: NDArray[np.intp], rule: NDArray[np.intp], book: Rulebook) -> Pairs:
    """Those stored, and with them these others that are not, in the order of sensor and rule."""
    count = book.detector + 1
    key = np.concatenate((stored.sensor * count + stored.rule, sensor * count + rule))
    row = np.concatenate((stored.row, np.full(len(sensor), NEW)))
    order = np.argsort(key, kind="stable")  # what is stored comes before its like, which is dropped
    key, row = key[order], row[order]
    once = np.ones(len(key), np.bool_)
    once[1:] = key[1:] != key[:-1]
    return Pairs(key[once] // count, key[once] % count, row[once])


def _moved(
    sight: Sight, piece: Piece, before: NDArray[np.intp], profile: NDArray[np.intp], book: Rulebook
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(sensor, the detector's number) of sensors in service that moved too fast now, or lately before."""
    fast = np.logical_or.reduceat(np.logical_or.reduce(sight.ratio > 1, axis=0), piece.starts)
    fast[before] = True
    sensors = np.flatnonzero(fast & (profile != OUT_OF_SERVICE))
    return sensors, np.full(len(sensors), book.detector)


def _watch(
    troubles: Troubles,
    piece: Piece,
    sight: Sight,
    sensors: NDArray[np.intp],
    moved: tuple[NDArray[np.intp], NDArray[np.intp]],
) -> Series:
    """What the detector says of these sensors; moves on what is remembered of them and forgets those out of service."""
    rows, sensor = moved
    row = np.full(len(piece.sensors), NEW)
    row[sensor] = rows
    past = np.zeros(len(sensors), FAST)
    past["time_us"] = NEVER_US
    past["sensor_id"] = piece.sensors[sensors]
    known = row[sensors] != NEW
    past[known] = troubles.fast.table[row[sensors][known]]
    series, kept = fast_change(piece, sight.ratio, sight.anchor, runs_of(piece, sensors), past)
    forgotten = row[np.setdiff1d(sensor, sensors)]
    stays = (kept["time_us"] != NEVER_US).any(axis=1)
    troubles.fast.settle(
        np.concatenate((forgotten, row[sensors])),
        np.concatenate((troubles.fast.table[forgotten], kept)),
        np.concatenate((np.zeros(len(forgotten), np.bool_), stays)),
    )
    return series


def _advance(
    troubles: Troubles, piece: Piece, pairs: Pairs, series: Series, book: Rulebook, telling: Telling
) -> NDArray[np.void]:
    """The alarms of these pairs, a run of the series each, as they are after it; tells what changed."""
    alarms = np.zeros(len(pairs), ALARM)
    alarms["sensor_id"] = piece.sensors[pairs.sensor]
    alarms["parameter"], alarms["statistic"] = book.parameter[pairs.rule], book.statistic[pairs.rule]
    alarms["began_us"] = alarms["pending_us"] = alarms["shown_us"] = NEVER_US
    alarms[pairs.row != NEW] = troubles.alarms.table[pairs.row[pairs.row != NEW]]
    on_us, off_us = book.on_us[pairs.rule], book.off_us[pairs.rule]
    for run in runs_that_change(series, alarms, on_us, off_us).tolist():
        if telling.is_full:
            break
        alarm = _alarm(alarms[run], int(on_us[run]), int(off_us[run]))
        rule_id, statistic = book.id_of(int(pairs.rule[run])), int(book.statistic[pairs.rule[run]])
        for row, episode in walk(alarm, series, int(series.offsets[run]), int(series.offsets[run + 1])):
            telling.tell(int(pairs.sensor[run]), rule_id, statistic, int(series.time_us[row]), episode)
            if telling.is_full:
                break
        _put(alarms, run, alarm)
        alarms["rule"][run] = troubles.number_of(rule_id)
    if len(pairs):
        shown_us = np.maximum.reduceat(np.where(series.sign > 0, series.time_us, NEVER_US), series.offsets[:-1])
        np.maximum(alarms["shown_us"], shown_us, out=alarms["shown_us"])
    return alarms


def _alarm(record: np.void, on_us: int, off_us: int) -> Alarm:
    began_us, pending_us = int(record["began_us"]), int(record["pending_us"])
    return Alarm(on_us, off_us, bool(record["active"]), began_us, pending_us, int(record["severity"]), record["told"].copy())


def _put(alarms: NDArray[np.void], run: int, alarm: Alarm) -> None:
    for name in ("active", "began_us", "pending_us", "severity", "told"):
        alarms[name][run] = getattr(alarm, name)
