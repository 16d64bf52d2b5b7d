"""Site, Sensor and CatalogContext messages <-> water.sites."""

from collections.abc import Iterable

from waterquality.v1 import catalog_pb2, log_pb2

from mesh.codec.times import read_time, write_time
from water.sites import Sensor, Site

SITE_FIELDS = {name: name for name in ("name", "region", "source_type", "latitude_deg", "longitude_deg", "time_zone")}
"""Paths of an update mask that change a site -> attributes of Site."""
SENSOR_FIELDS = {
    **{name: name for name in ("site_id", "name", "parameters", "expected_period_s", "state", "disinfectant")},
    "installed_time": "installed_us",
    "calibrated_time": "calibrated_us",
}
"""Paths of an update mask that change a sensor -> attributes of Sensor."""


def read_site(message: catalog_pb2.Site) -> Site:
    """As it came; whether it makes sense is for others to say."""
    return Site(
        message.site_id,
        message.name,
        message.region,
        message.source_type,
        message.latitude_deg if message.HasField("latitude_deg") else None,
        message.longitude_deg if message.HasField("longitude_deg") else None,
        message.time_zone,
        message.etag,
    )


def write_site(site: Site) -> catalog_pb2.Site:
    """The message of a site."""
    return catalog_pb2.Site(
        site_id=site.site_id,
        name=site.name,
        region=site.region,
        source_type=site.source_type,  # type: ignore[arg-type]
        latitude_deg=site.latitude_deg,
        longitude_deg=site.longitude_deg,
        time_zone=site.time_zone,
        etag=site.etag,
    )


def read_sensor(message: catalog_pb2.Sensor) -> Sensor:
    """As it came, but for `first_sight`, which is not a caller's to say. Raises InvalidArgument for impossible times."""
    return Sensor(
        message.sensor_id,
        message.site_id,
        message.name,
        tuple(message.parameters),
        message.expected_period_s,
        read_time(message, "installed_time", "sensor.installed_time"),
        read_time(message, "calibrated_time", "sensor.calibrated_time"),
        message.state,
        message.disinfectant,
        False,
        message.etag,
    )


def write_sensor(sensor: Sensor) -> catalog_pb2.Sensor:
    """The message of a sensor."""
    return catalog_pb2.Sensor(
        sensor_id=sensor.sensor_id,
        site_id=sensor.site_id,
        name=sensor.name,
        parameters=sensor.parameters,  # type: ignore[arg-type]
        expected_period_s=sensor.expected_period_s,
        installed_time=None if sensor.installed_us is None else write_time(sensor.installed_us),
        calibrated_time=None if sensor.calibrated_us is None else write_time(sensor.calibrated_us),
        state=sensor.state,  # type: ignore[arg-type]
        etag=sensor.etag,
        disinfectant=sensor.disinfectant,
        first_sight=sensor.first_sight,
    )


def write_catalog(sites: Iterable[Site], sensors: Iterable[Sensor]) -> bytes:
    """The CatalogContext of these, in the order given; the same bytes for the same catalog."""
    context = log_pb2.CatalogContext(sites=map(write_site, sites), sensors=map(write_sensor, sensors))
    return context.SerializeToString(deterministic=True)
