"""Which bucket and group does a reading fall into, and which of its values count?"""

from dataclasses import dataclass
from typing import Any

from query_svc.groups import Chunk
from query_svc.selection import flag_of, moment, time_range
from water import flags as qartod


@dataclass(frozen=True, slots=True)
class Buckets:
    """Spans of `width_us`, aligned to 1970-01-01T00:00:00Z; None: one for everything, which starts where the filter does, or
    at 1970-01-01T00:00:00Z. Values flagged FAIL count only with `include_failed`."""

    width_us: int | None
    include_failed: bool


def usable_values(chunk: Chunk, buckets: Buckets) -> tuple[str, dict[str, Any]]:
    """SQL for the readings of one sensor `s`: place of the group, bucket, and each parameter's value, NULL where it does not
    count; and its arguments."""
    selection = chunk.selection
    without = set(selection.without_flags) | (set() if buckets.include_failed else {qartod.FAIL})
    times, arguments = time_range(selection)
    regions = " AND r.region = ANY(%(regions)s)" if selection.regions else ""
    unwanted = ", ".join(str(flag) for flag in sorted(without))
    values = ", ".join(
        f"CASE WHEN {flag_of(parameter)} NOT IN ({unwanted}) THEN r.{parameter.sql_column} END AS {parameter.sql_column}"
        if unwanted
        else f"r.{parameter.sql_column}"
        for parameter in selection.parameters
    )
    if buckets.width_us is None:
        bucket = "%(bucket_start)s"
    else:
        bucket = "date_bin(%(width)s * interval '1 microsecond', r.timestamp, timestamptz 'epoch')"
    query = f"""
        SELECT {chunk.place} AS place, {bucket} AS bucket, {values} FROM sensor_readings AS r
        WHERE r.sensor_id = s.sensor_id AND {times}{regions}"""
    more = {"width": buckets.width_us, "bucket_start": moment(selection.start_us or 0), "regions": list(selection.regions)}
    return query, arguments | more
