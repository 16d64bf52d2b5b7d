"""What is the newest reading of each sensor?"""

from mesh.shard_map import SLOTS_HERE
from mesh.shards import Shards
from query_svc.selection import (
    Selection,
    read_readings,
    readings_condition,
    sensors_from,
    shards_of,
    value_columns,
)
from query_svc.slices import Slice, merged
from water.readings import Readings


async def latest(shards: Shards, selection: Selection, lowest: int, limit: int) -> Readings:
    """The newest reading of the first `limit` sensors from id `lowest` on whose newest reading the filter lets through, by
    sensor; fewer only when there are no more. Times of the selection are ignored."""

    async def of_shard(shard: int, _: object) -> Slice:
        return await _latest_of_shard(shards, shard, selection, lowest, limit)

    return merged(await shards.gather(of_shard, shards_of(shards, selection.sensors))).cut(0, limit).readings


async def _latest_of_shard(shards: Shards, shard: int, selection: Selection, lowest: int, limit: int) -> Slice:
    source = sensors_from(selection, shards, shard, lowest)
    if source is None:
        return merged([])
    condition, more = readings_condition(selection)
    query = f"""
        SELECT s.sensor_id, r.timestamp, {value_columns(selection)}, r.flags
        FROM ({source.query}) AS s CROSS JOIN LATERAL (
            SELECT * FROM sensor_readings AS r WHERE r.sensor_id = s.sensor_id ORDER BY r.timestamp DESC LIMIT 1) AS r
        WHERE {SLOTS_HERE} AND {condition} ORDER BY s.sensor_id LIMIT %(limit)s"""
    return Slice(*await read_readings(shards, shard, selection, query, source.arguments | more | {"limit": limit}))
