"""What simulated sensors read: always the same for the same settings and time, and like water."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mesh.errors import SetupError
from tests.builders import START_US
from water.parameter import BY_COLUMN, PARAMETERS
from water.readings import Readings, concatenate
from wq.fleet_sensors import Fleet, FleetSettings
from wq.fleet_water import oxygen_at_saturation
from wq.scenarios import Course, Scenario

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000


def a_fleet(scenario: Scenario = Scenario.NORMAL, **changes: Any) -> Fleet:
    return Fleet(FleetSettings(**{"sensors": 30, "period_s": 600.0, **changes}), Course(scenario, START_US, DAY_US))


def all_of(fleet: Fleet, start_us: int = START_US, end_us: int = START_US + DAY_US) -> Readings:
    return concatenate([part for gateway in range(len(fleet.gateway_ids)) for part in fleet.between(gateway, start_us, end_us)])


def series(readings: Readings, sensor_id: int, column: str) -> NDArray[np.float32]:
    """In order of time."""
    mine = readings.take(np.flatnonzero(readings.sensor_id == sensor_id))
    row: NDArray[np.float32] = mine.values[BY_COLUMN[column].number - 1]
    return row[np.argsort(mine.measured_at_us)]


def assert_same(left: Readings, right: Readings) -> None:
    np.testing.assert_array_equal(left.sensor_id, right.sensor_id)
    np.testing.assert_array_equal(left.measured_at_us, right.measured_at_us)
    np.testing.assert_array_equal(left.values, right.values)


def test_the_same_settings_and_time_give_the_same_readings() -> None:
    assert_same(all_of(a_fleet()), all_of(a_fleet()))
    other = all_of(a_fleet(seed=2))
    np.testing.assert_array_equal(other.sensor_id, all_of(a_fleet()).sensor_id)
    assert not np.array_equal(other.values, all_of(a_fleet()).values)


@pytest.mark.parametrize("period_s", [0.5, 1.0, 10.0])
def test_steps_and_spans_give_the_same_readings(period_s: float) -> None:
    fleet = a_fleet(period_s=period_s)
    end_us = START_US + 40_000_000
    for gateway in range(3):
        first = -(-START_US // fleet.step_us)
        steps = [fleet.due(gateway, step) for step in range(first, -(-end_us // fleet.step_us))]
        assert_same(concatenate(steps), concatenate(list(fleet.between(gateway, START_US, end_us))))


def test_every_sensor_reads_once_a_period_in_order_of_time() -> None:
    for gateway in range(3):
        readings = concatenate(list(a_fleet(period_s=10.0).between(gateway, START_US, START_US + 100_000_000)))
        assert (np.diff(readings.measured_at_us) >= 0).all()
        _, counts = np.unique(readings.sensor_id, return_counts=True)
        assert set(counts.tolist()) == {10}
        assert len(np.unique(readings.measured_at_us)) > 50, "sensors are spread over the period"


def test_every_sensor_belongs_to_one_gateway() -> None:
    fleet = a_fleet(sensors=31, gateways=4)
    ids = [np.unique(concatenate(list(fleet.between(g, START_US, START_US + HOUR_US))).sensor_id) for g in range(4)]
    assert sorted(np.concatenate(ids).tolist()) == list(range(2_000_000_001, 2_000_000_032))


def test_values_are_plausible_and_on_their_grid() -> None:
    readings = all_of(a_fleet(period_s=60.0), end_us=START_US + 3 * DAY_US)
    for row, parameter in zip(readings.values, PARAMETERS, strict=True):
        there = row[~np.isnan(row)].astype(np.float64)
        low, high = parameter.suspect_range
        assert low <= there.min() <= there.max() <= high, parameter.label
        steps = there / parameter.resolution
        assert np.abs(steps - np.round(steps)).max() < 0.05, parameter.label


def test_only_plants_measure_disinfectant_redox_and_flow() -> None:
    readings = all_of(a_fleet())
    absent = np.isnan(readings.values)
    assert not absent[:5].any()
    np.testing.assert_array_equal(absent[5], absent[6])
    np.testing.assert_array_equal(absent[5], absent[7])
    assert set(np.unique(readings.sensor_id[~absent[5]] - 2_000_000_001).tolist()) < set(range(30))


def test_days_swing_and_oxygen_follows_temperature() -> None:
    readings = all_of(a_fleet())
    river = np.unique(readings.sensor_id[np.isnan(readings.values[5])])[-1]
    temperature, oxygen = (
        series(readings, int(river), name).astype(np.float64) for name in ("temperature_c", "dissolved_oxygen_mg_l")
    )
    assert 0.5 < temperature.max() - temperature.min() < 10
    assert (oxygen < 1.3 * oxygen_at_saturation(temperature)).all()


def test_oxygen_at_saturation_is_that_of_the_tables() -> None:
    # Standard Methods for the Examination of Water and Wastewater, table 4500-O:I: 14.62, 11.29, 9.09 mg/L at 0, 10, 20 degC.
    np.testing.assert_allclose(oxygen_at_saturation(np.array([0.0, 10.0, 20.0])), [14.62, 11.29, 9.09], atol=0.1)


@pytest.mark.parametrize(
    ("scenario", "column", "sign"),
    [
        (Scenario.DRIFT, "ph", 1),
        (Scenario.FOULING, "turbidity_ntu", 1),
        (Scenario.CONTAMINATION, "disinfectant_mg_l", -1),
        (Scenario.CONTAMINATION, "conductivity_us_cm", 1),
    ],
)
def test_a_scenario_changes_what_it_should_and_nothing_else(scenario: Scenario, column: str, sign: int) -> None:
    normal, changed = all_of(a_fleet()), all_of(a_fleet(scenario))
    hit = 2_000_000_001
    difference = series(changed, hit, column) - series(normal, hit, column)
    assert (sign * difference).max() > 10 * BY_COLUMN[column].resolution
    assert np.abs(difference[:2]).max() < 0.05 * np.abs(difference).max(), "it begins slowly"
    others = ~np.isin(normal.sensor_id, [hit, hit + 1, hit + 2])
    np.testing.assert_array_equal(changed.values[:, others], normal.values[:, others])
    if scenario is not Scenario.CONTAMINATION:
        np.testing.assert_array_equal(series(changed, hit + 1, column), series(normal, hit + 1, column))


def test_contamination_passes_one_sensor_after_the_other_and_goes() -> None:
    normal, changed = all_of(a_fleet()), all_of(a_fleet(Scenario.CONTAMINATION))
    starts = []
    for sensor in range(2_000_000_001, 2_000_000_004):
        rise = series(changed, sensor, "conductivity_us_cm") / series(normal, sensor, "conductivity_us_cm")
        starts.append(int(np.argmax(rise > 1.05)))
        assert abs(rise[-1] - 1) < 0.05
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(
    "changes", [{"gateways": 0}, {"sensors": 2}, {"period_s": 0.0}, {"regions": ()}, {"first_sensor_id": 0, "regions": ("a",)}]
)
def test_a_fleet_that_cannot_be_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match=next(iter(changes))):
        a_fleet(**changes)
