"""How sites and sensors look in a terminal."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text
from waterquality.v1 import catalog_pb2 as pb

from water.parameter import BY_NUMBER
from wq.show import make_table
from wq.when import iso

_STATE_STYLES = {pb.SENSOR_STATE_MAINTENANCE: "yellow", pb.SENSOR_STATE_RETIRED: "dim"}


def sites_table(sites: Iterable[pb.Site]) -> Table:
    """One line per site."""
    table = make_table(["site", "name", "region", "water", "place", "time zone", "etag"])
    for site in sites:
        here = site.HasField("latitude_deg") and site.HasField("longitude_deg")
        place = f"{site.latitude_deg:.5f} {site.longitude_deg:.5f}" if here else ""
        water = pb.SourceType.Name(site.source_type).removeprefix("SOURCE_TYPE_").lower() if site.source_type else ""
        table.add_row(site.site_id, site.name, site.region, water, place, site.time_zone, site.etag)
    return table


def sensors_table(sensors: Iterable[pb.Sensor]) -> Table:
    """One line per sensor; those that nobody has described yet say so."""
    table = make_table(["sensor", "site", "name", "measures", "every", "state", "calibrated", "etag"])
    for sensor in sensors:
        measures = [BY_NUMBER[number].label for number in sensor.parameters if number in BY_NUMBER]
        state = pb.SensorState.Name(sensor.state).removeprefix("SENSOR_STATE_").lower().replace("_", " ") if sensor.state else ""
        table.add_row(
            str(sensor.sensor_id),
            sensor.site_id,
            Text("seen, not described yet", "dim") if sensor.first_sight else sensor.name,
            ", ".join(measures) + (f" ({sensor.disinfectant})" if sensor.disinfectant else ""),
            f"{sensor.expected_period_s:g} s" if sensor.expected_period_s else "",
            Text(state, _STATE_STYLES.get(sensor.state, "")),
            iso(sensor.calibrated_time.ToMicroseconds()) if sensor.HasField("calibrated_time") else "",
            sensor.etag,
        )
    return table
