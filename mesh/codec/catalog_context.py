"""The bytes of a CatalogContext -> what of it screening depends on."""

from math import isfinite

from waterquality.v1 import catalog_pb2, log_pb2

from mesh.codec.wire import decode
from water.described import DEFAULT_GAP_US, Described, Description, Place

GAP_PERIODS = 5
LONGEST_GAP_S = 366 * 24 * 3600.0
_OUT_OF_SERVICE = (catalog_pb2.SENSOR_STATE_MAINTENANCE, catalog_pb2.SENSOR_STATE_RETIRED)


def read_described(content: bytes) -> Described:
    """Sensors as people described them, each with what is said of its site. A sensor's history starts anew after a gap of five of
    its expected periods, where a person has given one. Raises InvalidArgument (UNREADABLE_RECORD) for other bytes."""
    context = decode(log_pb2.CatalogContext, content)
    places = {site.site_id: Place(site.site_id, site.source_type) for site in context.sites}
    return Described(
        Description(
            sensor.sensor_id,
            _gap_us(sensor.expected_period_s),
            places.get(sensor.site_id) or Place(sensor.site_id),
            sensor.state not in _OUT_OF_SERVICE,
        )
        for sensor in context.sensors
    )


def _gap_us(expected_period_s: float) -> int:
    if not (expected_period_s > 0 and isfinite(expected_period_s)):
        return DEFAULT_GAP_US
    return round(min(GAP_PERIODS * expected_period_s, LONGEST_GAP_S) * 1_000_000)
