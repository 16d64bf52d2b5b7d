"""What happens to the fleet of `wq up`, and how it comes into the catalog."""

import pytest

from mesh.settings import Settings
from tests.builders import START_US
from tests.wq.fleet_readings import MINUTE_US, hurt
from wq.demo import CONTAMINATION_US, Demo, demo_fleet
from wq.fleet_water import NATURAL


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
