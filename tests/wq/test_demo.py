"""What happens to the fleet of `wq up`, and how it comes into the catalog."""

import numpy as np
import pytest

from mesh.settings import Settings
from tests.builders import START_US
from water.parameter import BY_COLUMN
from water.readings import Readings, concatenate
from wq.demo import CONTAMINATION_US, Demo, demo_fleet
from wq.fleet_water import NATURAL

MINUTE_US = 60_000_000


def read_minutes(settings: Settings, demo: Demo, minutes: int) -> Readings:
    fleet = demo_fleet(settings, demo, START_US)
    gateways = range(len(fleet.gateway_ids))
    return concatenate(
        [part for gateway in gateways for part in fleet.between(gateway, START_US, START_US + minutes * MINUTE_US)]
    )


def hurt(demo: Demo, minutes: int, column: str, least: float) -> set[int]:
    """Sensors whose readings differ by at least so much from those of a fleet to which nothing happens."""
    settings = Settings(fleet_period_s=10)
    with_it, without = (read_minutes(settings, which, minutes) for which in (demo, Demo.NONE))
    row = BY_COLUMN[column].number - 1
    return set(with_it.sensor_id[np.abs(with_it.values[row] - without.values[row]) >= least].tolist())


def test_a_minute_after_the_start_a_contamination_passes_three_sensors_of_one_river_site() -> None:
    assert hurt(Demo.TOUR, 1, "dissolved_oxygen_mg_l", 0.5) == set()
    sensors = hurt(Demo.TOUR, 3, "dissolved_oxygen_mg_l", 1.0)
    places = [place for place in demo_fleet(Settings(), Demo.TOUR, START_US).places() if place.sensor_id in sensors]
    assert len(places) == 3
    assert {place.kind for place in places} == {NATURAL}
    assert len({place.site for place in places}) == 1
    assert CONTAMINATION_US < 4 * MINUTE_US


def test_one_other_sensor_drifts_slowly() -> None:
    drifting = hurt(Demo.TOUR, 60, "ph", 0.2) - hurt(Demo.CONTAMINATION, 60, "ph", 0.2)
    assert len(drifting) == 1
    assert hurt(Demo.DRIFT, 60, "ph", 1.0) == drifting


@pytest.mark.parametrize("sensors", [3, 4, 6, 30, 200])
@pytest.mark.parametrize("demo", Demo)
def test_a_fleet_of_any_size_can_show_every_demo(sensors: int, demo: Demo) -> None:
    fleet = demo_fleet(Settings(fleet_sensors=sensors), demo, START_US)
    assert [place.sensor_id for place in fleet.places()] == list(range(1_000_000_001, 1_000_000_001 + sensors))
