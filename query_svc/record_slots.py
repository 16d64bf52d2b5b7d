"""How far is each slot of a partition recorded, which of them go on together, and where are their positions now?"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import positions
from mesh.errors import Unavailable
from mesh.ports import Partition
from mesh.positions import NOWHERE, Position
from mesh.shards import Shards, transaction

CLOSE = 256
"""Slots whose positions are this close go on together from the lowest of them, and those ahead skip what they have had."""
LOOK_WITHIN_S = 3.0
_NEVER = np.iinfo(np.int64).max

Slots = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Had:
    """What the shards have of one partition. `offset`, `source`: each slot's position; `live`: the slots that are written here,
    of the others nothing is known; `begun`: the source offset up to which a slot skips readings; `last_source`: of the last
    record that was read."""

    offset: NDArray[np.int64]
    source: NDArray[np.int64]
    live: NDArray[np.bool_]
    begun: NDArray[np.int64] = field(init=False)
    last_source: int = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Reads on from the lowest position of the live slots; what was read before does not count."""
        self.begun = self.source.copy()
        live = self.slots
        self.last_source = int(self.source[live[np.argmin(self.offset[live])]]) if len(live) else -1

    @property
    def slots(self) -> Slots:
        """The live slots, ascending."""
        return np.flatnonzero(self.live)

    @property
    def next(self) -> int:
        """The first offset that some live slot has not had. There is a live slot."""
        return int(self.offset[self.live].min()) + 1

    @property
    def reached(self) -> int:
        """The last offset that some live slot has had, and so the recorder has passed. There is a live slot."""
        return int(self.offset[self.live].max())

    @property
    def skipped(self) -> NDArray[np.int64]:
        """For each slot the source offset up to which it takes no readings: none at all unless it is live."""
        return np.where(self.live, self.begun, _NEVER)

    def set(self, slots: Slots, offset: int | NDArray[np.int64], source: int | NDArray[np.int64]) -> None:
        """The positions of some slots."""
        self.offset[slots] = offset
        self.source[slots] = source

    def positions(self, slots: Iterable[int]) -> dict[int, Position]:
        """The positions of some slots."""
        return {slot: Position(int(self.offset[slot]), int(self.source[slot])) for slot in slots}


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at shards found: the slots that they have and that may be written, positions of these and of others, and by
    shard why it did not answer."""

    writable: Set[int]
    positions: Mapping[tuple[int, Partition], Position]
    away: Mapping[int, str]

    def had(self, partition: Partition, slots: Slots, of: int) -> Had:
        """How far these slots are, of `of` in all."""
        found = [self.positions.get((slot, partition), NOWHERE) for slot in range(of)]
        offset, source = np.array(found, np.int64).reshape(of, 2).T.copy()
        live = np.zeros(of, np.bool_)
        live[slots] = True
        return Had(offset, source, live)


async def find(shards: Shards, asked: Mapping[int, Collection[int]], stage: str, log_id: str, topics: Sequence[str]) -> Found:
    """Looks for slots in the shards that should have them, all at once, each 3 s at most. FailedPrecondition for another log."""
    writable: set[int] = set()
    found: dict[tuple[int, Partition], Position] = {}
    away: dict[int, str] = {}

    async def look(shard: int, engine: AsyncEngine) -> None:
        slots = set(asked[shard])
        try:
            async with transaction(engine, LOOK_WITHIN_S) as connection:
                here = set((await connection.execute(text(_WRITABLE), {"slots": list(slots)})).scalars())
                places = await positions.read(connection, stage, log_id, topics)
        except Unavailable as error:
            away[shard] = error.message
            return
        writable.update(here)
        found.update({place: position for place, position in places.items() if place[0] in slots})

    await shards.gather(look, asked)
    return Found(writable, found, away)


def together(had: Had) -> Iterator[Slots]:
    """The live slots in groups that go on together, those that are farthest first."""
    slots = had.slots[np.argsort(-had.offset[had.slots], kind="stable")]
    while len(slots):
        near = had.offset[slots[0]] - had.offset[slots] <= CLOSE
        yield np.sort(slots[near])
        slots = slots[~near]


_WRITABLE = "SELECT slot FROM owned_slots WHERE slot = ANY(CAST(:slots AS int[])) AND writable"
