"""What of a run of screened records goes into the shards at once: those not had yet, without a hole, split by shard."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mesh.errors import Fault
from mesh.ports import Partition, Stored
from mesh.positions import Position
from mesh.shards import Shards
from query_svc.arrivals import Arrival, read_arrivals
from query_svc.record_slots import Had
from query_svc.rows import Rows, split


@dataclass(frozen=True, slots=True, eq=False)
class Flush:
    """What goes into the shards at once by one version of their map, and the position to which it brings the slots in `live`."""

    partition: Partition
    had: Had
    shards: Shards
    parts: Mapping[int, Rows]
    live: NDArray[np.bool_]
    new: Position
    record_count: int


async def fresh(partition: Partition, had: Had, run: Sequence[Stored]) -> list[Arrival]:
    """The records of the run that were not had before; now they are. Raises Fault at a hole."""
    arrivals = []
    for arrival in await asyncio.to_thread(read_arrivals, partition, run):
        if arrival.source_offset <= had.last_source:
            continue
        if arrival.previous_source_offset != had.last_source:
            where = f"{partition.topic}/{partition.number} offset {arrival.stored.offset}"
            follows = f"follows source offset {arrival.previous_source_offset}, but {had.last_source} was had last"
            raise Fault(f"{where} {follows}: records are missing")
        had.last_source = arrival.source_offset
        arrivals.append(arrival)
    return arrivals


async def make_flush(partition: Partition, had: Had, run: Sequence[Stored], arrivals: Sequence[Arrival], shards: Shards) -> Flush:
    """The flush of a run: the readings of these arrivals for the slots that are live now."""
    live = had.live.copy()
    arrived = [arrival.content for arrival in arrivals if arrival.content is not None]
    parts = await asyncio.to_thread(split, arrived, had.skipped, shards)
    return Flush(partition, had, shards, parts, live, Position(run[-1].offset, had.last_source), len(run))
