"""Screened records that nobody of ours wrote: whoever can write to the Log may put anything there, and it stops no reader.

Our screener writes the header `source` into every record. One without it is passed by; should it have stood in the place of one
of ours, the next one tells so by what it follows.
"""

from collections.abc import Sequence

import structlog

from mesh.codec.stamp import read_source, read_stamp
from mesh.ports import Log, Partition, Stored
from mesh.topics import SOURCE_OF

_BACK = 64
_log = structlog.get_logger()


def without_aliens(partition: Partition, records: Sequence[Stored]) -> Sequence[Stored]:
    """Those of ours, in their order; of other topics than the screened ones all."""
    if partition.topic not in SOURCE_OF:
        return records
    ours = [stored for stored in records if not is_alien(stored)]
    if len(ours) < len(records):
        places = [stored.offset for stored in records if is_alien(stored)]
        _log.warning(
            "records that no screener wrote are passed by", offsets=places[:10], count=len(places), **partition._asdict()
        )
    return ours


def is_alien(stored: Stored) -> bool:
    """Whether its headers cannot be those of a screened record."""
    try:
        read_stamp(stored.record.headers)
        return read_source(stored.record.headers) is None
    except ValueError:
        return True


async def last_of_ours(log: Log, partition: Partition) -> Stored | None:
    """The newest record of a screened partition that our screener wrote; None: there is none any more. Raises Unavailable."""
    last = await log.last(partition)
    if last is None or not is_alien(last):
        return last
    first = (await log.ends([partition.topic]))[partition].first
    end = last.offset
    while end > first:
        start = max(first, end - _BACK)
        found = [stored for stored in await log.read(partition, start, _BACK) if stored.offset < end and not is_alien(stored)]
        if found:
            return found[-1]
        end = start
    return None
