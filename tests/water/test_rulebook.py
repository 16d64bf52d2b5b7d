"""The rulebook finds the rules of each sensor by its whereabouts, among the rules that could be and no others."""

import numpy as np
import pytest

from water.described import Described, Description, Place
from water.rulebook import OUT_OF_SERVICE, Rulebook
from water.rules import Rule, Statistic

DESCRIBED = Described(
    [
        Description(1, place=Place("mill", 1)),
        Description(2, place=Place("mill", 1)),
        Description(3, place=Place("lake", 3)),
        Description(5, place=Place("mill", 1), in_service=False),
    ]
)


def rules_of(book: Rulebook, region: str, *sensors: int) -> list[set[str]]:
    """Ids of the rules in force for each of these sensors; the detector's is empty."""
    ids = np.array(sensors, np.int64)
    profiles = book.profile_of(region, ids, book.described.find(ids))
    keys = book.profiles.judged
    return [{book.id_of(int(key % (book.detector + 1))) for key in keys[keys // (book.detector + 1) == one]} for one in profiles]


@pytest.mark.parametrize(
    ("scope", "matching"),
    [
        ({}, {1, 2, 3, 4}),
        ({"sensor_ids": (1, 4)}, {1, 4}),
        ({"site_ids": ("mill",)}, {1, 2}),
        ({"site_ids": ("mill", "lake")}, {1, 2, 3}),
        ({"regions": ("north",)}, {1, 2, 3, 4}),
        ({"regions": ("south", "east")}, set()),
        ({"source_type": 3}, {3}),
        ({"source_type": 2}, set()),
        ({"sensor_ids": (1, 3), "source_type": 3}, {3}),
        ({"site_ids": ("mill",), "source_type": 3}, set()),
        ({"site_ids": ("lake",), "regions": ("north",), "source_type": 3, "sensor_ids": (2, 3)}, {3}),
        ({"sensor_ids": (1,), "regions": ("south",)}, set()),
        ({"disabled": True}, set()),
    ],
)
def test_all_that_a_rule_asks_of_a_sensors_whereabouts_must_hold(scope: dict[str, object], matching: set[int]) -> None:
    book = Rulebook([Rule("one", 1, upper_limit=8, **scope)], DESCRIBED)  # type: ignore[arg-type]
    for _ in range(2):  # the second time from what is known
        found = rules_of(book, "north", 1, 2, 3, 4, 5)
        assert {sensor for sensor, rules in zip((1, 2, 3, 4), found, strict=False) if "one" in rules} == matching
        assert all("" in rules for rules in found[:4])
        assert found[4] == set()


def test_sensors_out_of_service_have_the_profile_of_nothing() -> None:
    ids = np.array([1, 5], np.int64)
    profile = Rulebook((), DESCRIBED).profile_of("north", ids, DESCRIBED.find(ids))
    assert (profile == OUT_OF_SERVICE).tolist() == [False, True]


def test_a_region_has_rules_of_its_own() -> None:
    book = Rulebook([Rule("n", 1, upper_limit=8, regions=("north",)), Rule("s", 1, upper_limit=8, regions=("south",))], DESCRIBED)
    assert rules_of(book, "north", 1) == [{"", "n"}]
    assert rules_of(book, "south", 1) == [{"", "s"}]
    assert rules_of(book, "", 1) == [{""}]


def test_a_profile_has_the_strictest_limits_of_its_rules_by_value_and_by_rate() -> None:
    book = Rulebook(
        [
            Rule("a", 2, upper_limit=5),
            Rule("b", 2, upper_limit=4, lower_limit=0.1),
            Rule("c", 2, Statistic.RATE, upper_limit=7),
        ]
    )
    (profile,) = book.profile_of("north", np.array([9], np.int64), np.array([-1]))
    low, high = book.profiles.low[profile], book.profiles.high[profile]
    assert (low[1], high[1], high[9]) == (np.float32(0.1), 4, 7)
    assert np.isinf(np.delete(low, 1)).all()
    assert book.profiles.asks_rates[profile]


def test_a_rule_for_an_unknown_parameter_is_named() -> None:
    with pytest.raises(ValueError, match="rule 'odd' is for parameter 9, known are 1 to 8"):
        Rulebook([Rule("odd", 9, upper_limit=1)])


def test_regions_that_come_and_go_do_not_fill_the_memory() -> None:
    book = Rulebook([Rule("a", 1, upper_limit=8)], DESCRIBED)
    for number in range(1_000):
        assert rules_of(book, f"r{number}", 1) == [{"", "a"}]
    assert len(book._by_region) <= 100
    assert len(book.profiles.low) == 2
