"""What people say about where water is watched: sites, and the sensors at them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """A place where water is watched. `source_type` is a number of the contract; `etag` changes at every update."""

    site_id: str
    name: str = ""
    region: str = ""
    source_type: int = 0
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    time_zone: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Sensor:
    """A probe. `parameters` and `state` are numbers of the contract; times are microseconds since 1970; an empty `site_id`:
    at no site; `expected_period_s` 0: its silence is not watched; `first_sight`: nobody has described it yet."""

    sensor_id: int
    site_id: str = ""
    name: str = ""
    parameters: tuple[int, ...] = ()
    expected_period_s: float = 0.0
    installed_us: int | None = None
    calibrated_us: int | None = None
    state: int = 0
    disinfectant: str = ""
    first_sight: bool = False
    etag: str = ""
