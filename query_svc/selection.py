"""Which sensors, on which shards, does a filter mean, and how is it written as SQL for one of them?

Every read goes from sensors to their readings by the primary key (a lateral join), so that its cost depends on what is
returned and not on how long history is. And every read names the slots that it relies on: a shard that does not have one
(any more) answers with an error, never silently with nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mesh.adapters.postgres_copy import Kind, copy_out
from mesh.shard_map import slot_sql
from mesh.shards import Shards, slot_of
from query_svc.filters import ReadingFilter
from query_svc.places import Places
from water import flags as qartod
from water.parameter import BY_NUMBER, PARAMETERS, Parameter
from water.readings import Readings

QUERY_TIMEOUT_S = 20.0
LOWEST_SENSOR = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z
_LAST_US = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """A filter with its sites resolved. `sensors`: sorted, unique; None: all that the shards have seen."""

    sensors: NDArray[np.int64] | None
    regions: tuple[str, ...]
    start_us: int | None
    end_us: int | None
    parameters: tuple[Parameter, ...]
    without_flags: tuple[int, ...]


class Source(NamedTuple):
    """A query for sensors, one column `sensor_id` in order, and its arguments, with the `slots` that SLOTS_HERE checks."""

    query: str
    arguments: dict[str, Any]


async def select(asked: ReadingFilter, places: Places) -> Selection:
    """Raises NotFound for a site that does not exist, TooLarge for sites with too many sensors."""
    sensors = np.unique(np.array(asked.sensor_ids, np.int64)) if asked.sensor_ids else None
    if asked.site_ids:
        there = await places.sensors_at(asked.site_ids)
        sensors = there if sensors is None else np.intersect1d(sensors, there, assume_unique=True)
    parameters = tuple(BY_NUMBER[number] for number in sorted(set(asked.parameters))) or PARAMETERS
    regions = tuple(sorted(set(asked.regions)))
    return Selection(sensors, regions, asked.start_us, asked.end_us, parameters, tuple(sorted(set(asked.without_flags))))


def shards_of(shards: Shards, sensors: NDArray[np.int64] | None) -> list[int]:
    """The shards that may have readings of these sensors: exactly one for one sensor."""
    if sensors is None:
        return shards.owning
    return [int(shard) for shard in np.unique(shards.of(sensors))]


def value_columns(selection: Selection) -> str:
    """The asked parameters' columns of `r`, NaN where absent."""
    return ", ".join(f"coalesce(r.{parameter.sql_column}, 'NaN'::real)" for parameter in selection.parameters)


def sensors_from(selection: Selection, shards: Shards, shard: int, lowest: int) -> Source | None:
    """The shard's sensors from id `lowest` on, in order; None when the selection has none there."""
    if selection.sensors is None:
        condition = " AND region = ANY(%(regions)s)" if selection.regions else ""
        slots = shards.slots_of_shard(shard)
        here = f"{slot_sql(shards.slots)} = ANY(%(slots)s::int[])"  # while a slot is moved two shards have its sensors
        condition += f" AND ((SELECT count(*) FROM owned_slots) = cardinality(%(slots)s::int[]) OR {here})"
        query = f"SELECT DISTINCT sensor_id FROM sensors_seen WHERE sensor_id >= %(lowest)s{condition} ORDER BY 1"
        return Source(query, {"lowest": lowest, "regions": list(selection.regions), "slots": slots})
    sensors = selection.sensors[np.searchsorted(selection.sensors, lowest) :]
    sensors = sensors[shards.of(sensors) == shard]
    if not len(sensors):
        return None
    slots = np.unique(slot_of(sensors, shards.slots)).tolist()
    query = "SELECT unnest(%(sensors)s::bigint[]) AS sensor_id ORDER BY 1"
    return Source(query, {"sensors": array(sensors), "slots": slots})


def readings_condition(selection: Selection) -> tuple[str, dict[str, Any]]:
    """What a reading `r` must fulfil besides its sensor and time: its region, and that a value is left to return."""
    conditions = ["r.region = ANY(%(regions)s)"] if selection.regions else []
    if selection.without_flags or len(selection.parameters) < len(PARAMETERS):
        left = " OR ".join(value_is_left(parameter, selection.without_flags) for parameter in selection.parameters)
        conditions.append(f"({left})")
    return " AND ".join(conditions) or "true", {"regions": list(selection.regions)}


def value_is_left(parameter: Parameter, without_flags: Iterable[int]) -> str:
    """The value of `r` is there, and its flag is not one of these."""
    present = f"r.{parameter.sql_column} IS NOT NULL"
    unwanted = ", ".join(str(int(flag)) for flag in without_flags)
    return f"({present} AND {flag_of(parameter)} NOT IN ({unwanted}))" if unwanted else present


def flag_of(parameter: Parameter) -> str:
    """The flag of a parameter's value of `r`."""
    return f"((r.flags >> {4 * (parameter.number - 1)}) & 15)"


def time_range(selection: Selection) -> tuple[str, dict[str, Any]]:
    """The condition on the time of `r`."""
    conditions = [] if selection.start_us is None else ["r.timestamp >= %(start)s"]
    conditions += [] if selection.end_us is None else ["r.timestamp < %(end)s"]
    arguments = {"start": moment(selection.start_us), "end": moment(selection.end_us)}
    return " AND ".join(conditions) or "true", arguments


def moment(at_us: int | None) -> datetime | None:
    """A time, exact to the microsecond; beyond the years 1 to 9999 their end, where no reading is."""
    return None if at_us is None else _EPOCH + timedelta(microseconds=min(max(at_us, _FIRST_US), _LAST_US))


def array(numbers: NDArray[np.int64]) -> str:
    """As the text of a PostgreSQL array."""
    return "{" + ",".join(map(str, numbers.tolist())) + "}"


async def read_readings(
    shards: Shards, shard: int, selection: Selection, query: str, arguments: Mapping[str, Any], *, regions: bool = False
) -> tuple[Readings, NDArray[np.bytes_]]:
    """The rows of a query that selects sensor_id, timestamp, the value columns, flags and, if asked for, the region, as
    readings without what the filter leaves out, and their regions."""
    values: list[tuple[str, Kind]] = [(parameter.sql_column, "real") for parameter in selection.parameters]
    columns: list[tuple[str, Kind]] = [("sensor_id", "bigint"), ("timestamp", "timestamptz"), *values, ("flags", "bigint")]
    columns += [("region", "text20")] if regions else []
    rows = await copy_out(shards.engines[shard], query, arguments, columns, QUERY_TIMEOUT_S)
    matrix = np.full((len(PARAMETERS), len(rows["flags"])), np.nan, np.float32)
    for parameter in selection.parameters:
        matrix[parameter.number - 1] = rows[parameter.sql_column]
    readings = Readings(rows["sensor_id"], rows["timestamp"], matrix, rows["flags"].view(np.uint64))
    return left(selection, readings), rows["region"] if regions else np.empty(0, "S20")


def left(selection: Selection, readings: Readings) -> Readings:
    """The readings without what the filter leaves out: values with an unwanted flag become NaN with flag MISSING, parameters
    that were not asked for have neither value nor flag. A reading of which nothing is left stays."""
    if readings.flags is None or (not selection.without_flags and len(selection.parameters) == len(PARAMETERS)):
        return readings
    values, flags = readings.values.copy(), qartod.unpack(readings.flags)
    unwanted = np.isin(flags, selection.without_flags)
    values[unwanted] = np.nan
    flags[unwanted] = qartod.MISSING
    not_asked = [parameter.number - 1 for parameter in PARAMETERS if parameter not in selection.parameters]
    values[not_asked] = np.nan
    flags[not_asked] = 0
    return Readings(readings.sensor_id, readings.measured_at_us, values, qartod.pack(flags))
