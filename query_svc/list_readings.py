"""What is the next page of readings, by sensor and time?"""

from mesh.shards import Shards
from query_svc.selection import Selection, shards_of
from query_svc.slices import Place, Slice, merged, read_slice


async def list_readings(shards: Shards, selection: Selection, after: Place | None, limit: int) -> Slice:
    """The first `limit` readings behind `after`, with their regions; fewer only when there are no more. A page depends on the
    place where it starts and on nothing else, so readings that arrive meanwhile move no other to another page."""

    async def of_shard(shard: int, _: object) -> Slice:
        return await read_slice(shards, shard, selection, after, limit, regions=True)

    return merged(await shards.gather(of_shard, shards_of(shards, selection.sensors))).cut(0, limit)
