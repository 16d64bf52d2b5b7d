"""Which sensors of the fleet of `wq up` does a demo change?"""

import numpy as np

from mesh.settings import Settings
from tests.builders import START_US
from water.parameter import BY_COLUMN
from water.readings import Readings, concatenate
from wq.demo import Demo, demo_fleet

MINUTE_US = 60_000_000


def hurt(demo: Demo, minutes: int, column: str, least: float) -> set[int]:
    """Sensors whose readings differ by at least so much from those of a fleet to which nothing happens."""
    settings = Settings(fleet_period_s=10)
    with_it, without = (_read_minutes(settings, which, minutes) for which in (demo, Demo.NONE))
    row = BY_COLUMN[column].number - 1
    return set(with_it.sensor_id[np.abs(with_it.values[row] - without.values[row]) >= least].tolist())


def _read_minutes(settings: Settings, demo: Demo, minutes: int) -> Readings:
    fleet = demo_fleet(settings, demo, START_US)
    gateways = range(len(fleet.gateway_ids))
    return concatenate(
        [part for gateway in gateways for part in fleet.between(gateway, START_US, START_US + minutes * MINUTE_US)]
    )
