"""Can this site, or this sensor, stand in the catalog?"""

import math
import re
from collections.abc import Mapping
from functools import cache
from zoneinfo import available_timezones

from mesh.errors import InvalidArgument
from water.parameter import BY_NUMBER
from water.sites import Sensor, Site

SOURCE_TYPES = (1, 2, 3)
IN_SERVICE, MAINTENANCE, RETIRED = 1, 2, 3
STATES = (IN_SERVICE, MAINTENANCE, RETIRED)
LONGEST_NAME = 200
LONGEST_PERIOD_S = 366 * 24 * 3600
_SITE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REGION = re.compile(r"[a-z0-9_-]{1,20}")


def check_site(site: Site) -> None:
    """Raises InvalidArgument that names every problem by its field path."""
    problems: dict[str, str] = {}
    if not _SITE_ID.fullmatch(site.site_id):
        problems["site.site_id"] = f"{site.site_id[:80]!r}: 1 to 64 characters of a-z A-Z 0-9 . _ -"
    _check_text("site.name", site.name, problems)
    if not _REGION.fullmatch(site.region):
        problems["site.region"] = f"{site.region[:80]!r}: 1 to 20 characters of a-z 0-9 _ -"
    if site.source_type not in SOURCE_TYPES:
        problems["site.source_type"] = f"{site.source_type} is not municipal (1), industrial (2) or natural (3)"
    for name, value, most in (("latitude_deg", site.latitude_deg, 90), ("longitude_deg", site.longitude_deg, 180)):
        if value is not None and not -most <= value <= most:
            problems[f"site.{name}"] = f"{value:g} is not within -{most} to {most}"
    if (site.latitude_deg is None) != (site.longitude_deg is None):
        problems["site.latitude_deg"] = "latitude and longitude are given together or not at all"
    if site.time_zone and site.time_zone not in _time_zones():
        problems["site.time_zone"] = f"{site.time_zone[:80]!r} is no IANA time zone such as 'America/New_York'; empty: UTC"
    _raise(problems)


def check_sensor(sensor: Sensor) -> None:
    """Raises InvalidArgument that names every problem by its field path. Whether the site exists is not checked here."""
    problems: dict[str, str] = {}
    if not 0 < sensor.sensor_id < 2**63:
        problems["sensor.sensor_id"] = f"{sensor.sensor_id} is no sensor id: they are positive"
    if sensor.site_id and not _SITE_ID.fullmatch(sensor.site_id):
        problems["sensor.site_id"] = f"{sensor.site_id[:80]!r}: 1 to 64 characters of a-z A-Z 0-9 . _ -, or empty: at no site"
    _check_text("sensor.name", sensor.name, problems)
    _check_text("sensor.disinfectant", sensor.disinfectant, problems)
    unknown = sorted(set(sensor.parameters) - set(BY_NUMBER))
    if unknown:
        problems["sensor.parameters"] = f"{unknown[0]} is not one of {', '.join(map(str, BY_NUMBER))}"
    elif len(set(sensor.parameters)) < len(sensor.parameters):
        problems["sensor.parameters"] = "names one parameter twice"
    if not (math.isfinite(sensor.expected_period_s) and 0 <= sensor.expected_period_s <= LONGEST_PERIOD_S):
        problems["sensor.expected_period_s"] = f"{sensor.expected_period_s:g} s: 0 (not watched) up to {LONGEST_PERIOD_S} s"
    if sensor.state not in STATES:
        problems["sensor.state"] = f"{sensor.state} is not in service (1), maintenance (2) or retired (3)"
    _raise(problems)


def _check_text(field: str, given: str, problems: dict[str, str]) -> None:
    if len(given) > LONGEST_NAME or not given.isprintable():
        problems[field] = f"at most {LONGEST_NAME} printable characters, {len(given)} given"


def _raise(problems: Mapping[str, str]) -> None:
    if problems:
        listed = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
        raise InvalidArgument(listed, fields=problems)


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())
