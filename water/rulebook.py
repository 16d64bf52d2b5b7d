"""Rulebook: which rules are for which sensor, and their limits as arrays that many sensors are compared with at once."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from water.described import Described, Place
from water.limits import SECOND_US
from water.parameter import BY_NUMBER, PARAMETERS
from water.rules import Rule, Statistic
from water.trouble import DETECTOR

DETECTOR_STATISTIC = 0
DETECTOR_CLEARS_US = 1_800 * SECOND_US
WIDTH = len(PARAMETERS)
SLOTS = 2 * WIDTH  # what is compared with limits: each parameter's value, then each one's rate
OUT_OF_SERVICE = 0
_UNKNOWN = -1
_MOST_REGIONS = 100
_K = TypeVar("_K")


class Profiles(NamedTuple):
    """What is judged, by profile, which is a set of rules that some sensors have in common. Profile OUT_OF_SERVICE: nothing."""

    low: NDArray[np.float32]
    """Shape (profiles, SLOTS): below it some rule is broken; -inf where there is none."""
    high: NDArray[np.float32]
    """Likewise above."""
    offsets: NDArray[np.intp]
    """Of the rules of (profile, slot) in `members`: from offsets[profile * SLOTS + slot] to the next."""
    members: NDArray[np.intp]
    asks_rates: NDArray[np.bool_]
    """Whether some rule limits a rate."""
    judged: NDArray[np.int64]
    """Ascending profile * (rules + 1) + rule, the detector's included."""


class Rulebook:
    """Rules are numbered in the order of their ids; the last number, `detector`, is the built-in detector's. Arrays with one
    entry per number; limits are float32, -inf or inf where there is none.

    Asking for a sensor's profile is a binary search. Whom a rule is for is found out once per region and place, or sensor that
    some rule names, among the rules that could be; a new Rulebook forgets it.
    """

    def __init__(self, rules: Iterable[Rule] = (), described: Described | None = None) -> None:
        """Raises ValueError naming a rule whose parameter is not known. Disabled rules are left out."""
        self.rules = tuple(sorted((rule for rule in rules if not rule.disabled), key=lambda rule: rule.rule_id))
        for rule in self.rules:
            if rule.parameter not in BY_NUMBER:
                raise ValueError(f"rule {rule.rule_id!r} is for parameter {rule.parameter}, known are 1 to {WIDTH}")
        self.described = described or Described()
        self.detector = len(self.rules)
        self._number = {rule.rule_id: number for number, rule in enumerate(self.rules)} | {DETECTOR: self.detector}
        self._set_limits()
        self._file()
        self._profile_of: dict[tuple[int, ...], int] = {}
        self._by_region: dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]] = {}
        nothing = np.empty((0, SLOTS), np.float32)
        none = np.empty(0, np.intp)
        zero = np.zeros(1, np.intp)
        self.profiles = Profiles(nothing, nothing, zero, none, none.astype(np.bool_), none.astype(np.int64))
        self._add([()])  # OUT_OF_SERVICE

    def number_of(self, rule_id: str) -> int:
        """The number of a rule's id, or of DETECTOR; -1: there is no such rule in force."""
        return self._number.get(rule_id, -1)

    def id_of(self, number: int) -> str:
        """The inverse; DETECTOR for the detector's."""
        return self.rules[number].rule_id if number < self.detector else DETECTOR

    def profile_of(self, region: str, sensors: NDArray[np.int64], found: NDArray[np.intp]) -> NDArray[np.intp]:
        """The profile of each of these distinct, ascending sensors, which stand in `described` where `found` says."""
        if region not in self._by_region:
            if len(self._by_region) >= _MOST_REGIONS:
                self._by_region.clear()
            places, named = len(self.described.places), len(self._named)
            self._by_region[region] = (np.full(places, _UNKNOWN, np.intp), np.full(named, _UNKNOWN, np.intp))
        of_place, of_named = self._by_region[region]
        place = self.described.place(found)
        profile = of_place[place]
        if (profile == _UNKNOWN).any():
            unknown = np.unique(place[profile == _UNKNOWN])
            of_place[unknown] = self._profiles(region, unknown, [()] * len(unknown))
            profile = of_place[place]
        if len(self._named):
            at = np.minimum(np.searchsorted(self._named, sensors), len(self._named) - 1)
            here = np.flatnonzero(self._named[at] == sensors)
            unknown = here[of_named[at[here]] == _UNKNOWN]
            if len(unknown):
                of_them = [self._for_sensor[sensor] for sensor in sensors[unknown].tolist()]
                of_named[at[unknown]] = self._profiles(region, place[unknown], of_them)
            profile[here] = of_named[at[here]]
        profile[~self.described.in_service(found)] = OUT_OF_SERVICE
        return profile

    def _set_limits(self) -> None:
        rules = self.rules
        no_limit = float("inf")

        def each(get: Callable[[Rule], float], detector: float) -> NDArray[np.float64]:
            return np.array([*map(get, rules), detector], np.float64)

        lower = each(lambda rule: -no_limit if rule.lower_limit is None else rule.lower_limit, -no_limit)
        upper = each(lambda rule: no_limit if rule.upper_limit is None else rule.upper_limit, no_limit)
        deadband = each(lambda rule: rule.deadband, 0)
        self.parameter = each(lambda rule: rule.parameter - 1, 0).astype(np.intp)
        self.statistic = each(lambda rule: rule.statistic, DETECTOR_STATISTIC).astype(np.uint8)
        self.severity = each(lambda rule: rule.severity_level, 0).astype(np.uint8)
        self.on_us = np.round(each(lambda rule: rule.on_delay_s * SECOND_US, 0)).astype(np.int64)
        self.off_us = np.round(each(lambda rule: rule.off_delay_s * SECOND_US, DETECTOR_CLEARS_US)).astype(np.int64)
        with np.errstate(over="ignore"):  # no value is beyond such a limit
            self.low, self.high = lower.astype(np.float32), upper.astype(np.float32)
            self.low_back, self.high_back = (lower + deadband).astype(np.float32), (upper - deadband).astype(np.float32)
        self.slot = self.parameter + np.where(self.statistic == Statistic.RATE, WIDTH, 0)

    def _file(self) -> None:
        """Files each rule under one thing that it asks for, the rarest, so that few are looked at for a sensor."""
        self._for_sensor, self._for_site = defaultdict[int, list[int]](list), defaultdict[str, list[int]](list)
        self._for_region, self._for_source = defaultdict[str, list[int]](list), defaultdict[int, list[int]](list)
        for number, rule in enumerate(self.rules):
            if rule.sensor_ids:
                _put(self._for_sensor, rule.sensor_ids, number)
            elif rule.site_ids:
                _put(self._for_site, rule.site_ids, number)
            elif rule.regions:
                _put(self._for_region, rule.regions, number)
            else:
                _put(self._for_source, (rule.source_type,), number)
        self._named = np.array(sorted(self._for_sensor), np.int64)

    def _profiles(self, region: str, places: NDArray[np.intp], more: Sequence[Sequence[int]]) -> list[int]:
        """Of sensors at these places, `more` being the rules that name them."""
        new: list[tuple[int, ...]] = []
        numbers = []
        for place, named in zip(places.tolist(), more, strict=True):
            rules = self._rules_at(region, self.described.places[place], named)
            if rules not in self._profile_of:
                self._profile_of[rules] = len(self.profiles.low) + len(new)
                new.append(rules)
            numbers.append(self._profile_of[rules])
        if new:
            self._add([(*rules, self.detector) for rules in new])
        return numbers

    def _rules_at(self, region: str, place: Place, named: Sequence[int]) -> tuple[int, ...]:
        candidates = {
            *self._for_source.get(0, ()),
            *self._for_source.get(place.source_type, ()),
            *self._for_region.get(region, ()),
            *self._for_site.get(place.site_id, ()),
            *named,
        }
        return tuple(sorted(number for number in candidates if _is_for(self.rules[number], region, place)))

    def _add(self, judged: Sequence[tuple[int, ...]]) -> None:
        """New profiles, of what is judged in each. Copies those there are."""
        profiles, first = self.profiles, len(self.profiles.low)
        number = np.repeat(np.arange(first, first + len(judged)), [len(rules) for rules in judged])
        rule = np.array([rule for rules in judged for rule in rules], np.intp)
        limits = rule != self.detector
        cell, member = (number[limits] - first) * SLOTS + self.slot[rule[limits]], rule[limits]
        low, high = np.full(len(judged) * SLOTS, -np.inf, np.float32), np.full(len(judged) * SLOTS, np.inf, np.float32)
        np.maximum.at(low, cell, self.low[member])
        np.minimum.at(high, cell, self.high[member])
        counts = np.bincount(cell, minlength=len(judged) * SLOTS)
        self.profiles = Profiles(
            np.concatenate((profiles.low, low.reshape(-1, SLOTS))),
            np.concatenate((profiles.high, high.reshape(-1, SLOTS))),
            np.concatenate((profiles.offsets, profiles.offsets[-1] + np.cumsum(counts))),
            np.concatenate((profiles.members, member[np.argsort(cell, kind="stable")])),
            np.concatenate((profiles.asks_rates, counts.reshape(-1, SLOTS)[:, WIDTH:].any(axis=1))),
            np.concatenate((profiles.judged, number * (self.detector + 1) + rule)),
        )


def _put(filed: defaultdict[_K, list[int]], keys: Iterable[_K], number: int) -> None:
    for key in keys:
        filed[key].append(number)


def _is_for(rule: Rule, region: str, place: Place) -> bool:
    """Whether all that it asks for of a sensor's whereabouts holds."""
    return (
        (not rule.site_ids or place.site_id in rule.site_ids)
        and (not rule.regions or region in rule.regions)
        and rule.source_type in (0, place.source_type)
    )
