"""How records come out of the embedded Log's tables again, and how old ones are dropped."""

import json
from collections.abc import Sequence

from mesh.adapters.postgres_connections import Connections
from mesh.ports import Ends, Partition, Record, Stored

READ_BYTES = 8 * 2**20
READ_RECORDS = 10_000
_TRIM_WINDOW = 1_000

# A value stored out of line has its length beside its pointer: only the values of the rows that leave are read.
_READ = """
SELECT "offset", appended_at_us, headers, value FROM (
    SELECT *, sum(octet_length(value)) OVER (ORDER BY "offset") AS bytes, row_number() OVER (ORDER BY "offset") AS place
    FROM (SELECT * FROM log.records WHERE topic = %s AND number = %s AND "offset" >= %s ORDER BY "offset" LIMIT %s) found
) counted WHERE bytes <= %s OR place = 1 ORDER BY "offset"
"""
_LAST = """
SELECT "offset", appended_at_us, headers, value FROM log.records
WHERE topic = %s AND number = %s ORDER BY "offset" DESC LIMIT 1
"""
_ENDS = "SELECT topic, number, first_offset, next_offset FROM log.partitions WHERE topic = ANY(%s)"
_ENDS_OF_ONE = "SELECT first_offset, next_offset FROM log.partitions WHERE topic = %s AND number = %s"
_TRIM = """
WITH dropped AS (
    DELETE FROM log.records WHERE topic = %s AND number = %s AND "offset" >= %s AND "offset" < %s AND appended_at_us < %s
    RETURNING 1
) SELECT count(*) FROM dropped
"""
_MOVE_FIRST = """
UPDATE log.partitions p SET first_offset = greatest(p.first_offset, (
    SELECT min("offset") FROM log.records r WHERE r.topic = p.topic AND r.number = p.number AND r."offset" >= p.first_offset))
WHERE p.topic = %s AND p.number = %s RETURNING first_offset
"""


async def read_records(
    database: Connections, partition: Partition, offset: int, limit: int, limit_bytes: int = READ_BYTES
) -> Sequence[Stored]:
    """Up to `limit` records (and at most so many bytes, but one if any) from `offset` on."""
    rows = await database.fetch(_READ, (*partition, offset, min(limit, READ_RECORDS), limit_bytes))
    return tuple(_stored(*row) for row in rows)


async def read_last(database: Connections, partition: Partition) -> Stored | None:
    """The newest record of a partition."""
    rows = await database.fetch(_LAST, partition)
    return _stored(*rows[0]) if rows else None


async def read_ends(database: Connections, topics: Sequence[str]) -> dict[Partition, Ends]:
    """The span of every partition of the topics."""
    rows = await database.fetch(_ENDS, (list(topics),))
    return {Partition(topic, number): Ends(first, following) for topic, number, first, following in rows}


async def trim_records(database: Connections, partition: Partition, before_offset: int, before_us: int) -> tuple[int, int]:
    """As `Log.trim`, in short transactions; how many were dropped, and the first offset that is kept."""
    ((_, following),) = await database.fetch(_ENDS_OF_ONE, partition)
    ((first,),) = await database.fetch(_MOVE_FIRST, partition)  # an earlier trim may have been killed before it could tell
    end = min(before_offset, following - 1)
    dropped = 0
    for start in range(first, end, _TRIM_WINDOW):
        ((count,),) = await database.fetch(_TRIM, (*partition, start, min(start + _TRIM_WINDOW, end), before_us))
        dropped += count
        if count == 0:
            break
    if dropped:
        ((first,),) = await database.fetch(_MOVE_FIRST, partition)
    return dropped, first


def _stored(offset: int, appended_at_us: int, headers: str, value: bytes) -> Stored:
    return Stored(offset, Record(value, json.loads(headers) if headers else {}), appended_at_us)
