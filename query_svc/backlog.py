"""What waits for a stage in the Log, and for how long has the oldest of it waited?"""

import asyncio
from collections.abc import Iterable, Mapping

from mesh.aliens import last_of_ours
from mesh.codec.stamp import read_source
from mesh.ports import Ends, Log, Partition
from mesh.shards import first_error
from mesh.stages import Heard
from mesh.topics import SCREENED_FROM

MOST_READS_AT_ONCE = 8
READ_AT_MOST_S = 1.0

Nexts = Mapping[Partition, int]
"""For each partition the first offset that a stage has not covered."""


def waiting(ends: Mapping[Partition, Ends], nexts: Nexts) -> dict[Partition, int]:
    """The partitions in which something waits, and the offset from which on. Where a stage has not begun, all that is kept
    waits for it."""
    begun = {partition: max(nexts.get(partition, 0), end.first) for partition, end in ends.items()}
    return {partition: offset for partition, offset in begun.items() if offset < ends[partition].next}


def told(heard: Iterable[Heard], stage: str) -> dict[Partition, int]:
    """How far the workers of a stage say that they are; of two that had the same partition the later one knows."""
    mine = sorted((beat for beat in heard if beat.stage == stage), key=lambda beat: beat.at_us)
    return {partition: offset for beat in mine for partition, offset in beat.next_offset.items()}


async def screened_until(log: Log, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """How far these partitions of accepted and backfill are screened, by the newest record that came out."""
    nexts = {}
    for partition in partitions:
        newest = await last_of_ours(log, Partition(SCREENED_FROM[partition.topic], partition.number))
        source = read_source(newest.record.headers) if newest else None
        nexts[partition] = source[0] + 1 if source else 0
    return nexts


class Ages:
    """When the records that stages wait at were appended. Each is read once; of what one look needs no more than a second is
    spent on reading, so that hundreds of partitions with something waiting do not hold the answer up."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._now_us = 0
        self._until_s = 0.0
        self._before: dict[tuple[Partition, int], int] = {}
        self._appended_us: dict[tuple[Partition, int], int] = {}

    def look(self, now_us: int) -> None:
        """Begins a look: what the last one needed is still known."""
        self._now_us = now_us
        self._until_s = asyncio.get_running_loop().time() + READ_AT_MOST_S
        self._before, self._appended_us = self._appended_us, {}

    async def oldest_us(self, places: Nexts) -> tuple[int, bool]:
        """Age of the oldest record at or behind these places, microseconds, 0: there is none; and whether all of them were read,
        else some may be older."""
        limit = asyncio.Semaphore(MOST_READS_AT_ONCE)

        async def read(place: tuple[Partition, int]) -> None:
            async with limit:
                if asyncio.get_running_loop().time() < self._until_s:
                    found = await self._log.read(*place, 1)
                    self._appended_us[place] = found[0].appended_at_us if found else self._now_us

        try:
            async with asyncio.TaskGroup() as tasks:
                for place in places.items():
                    if place in self._before:
                        self._appended_us[place] = self._before[place]
                    elif place not in self._appended_us:
                        tasks.create_task(read(place))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors
        known = [self._appended_us[place] for place in places.items() if place in self._appended_us]
        return max(0, self._now_us - min(known, default=self._now_us)), len(known) == len(places)
