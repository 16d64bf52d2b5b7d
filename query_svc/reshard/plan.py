"""Which slots go from where to where, so that as few as possible move and every shard ends with as many as the others?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidArgument


@dataclass(frozen=True, slots=True, order=True)
class Move:
    """One slot on its way."""

    slot: int
    source: int
    target: int


def shards_after(now: Sequence[int], added: Sequence[int], count: int) -> list[int]:
    """The numbers of the `count` shards that stay or come: the ones with the highest numbers leave."""
    return sorted([*now, *added])[:count]


def plan_moves(owner: NDArray[np.int64], after: Sequence[int]) -> list[Move]:
    """As few moves as there can be: afterwards each shard in `after` has slots // len(after) slots or one more, and no other has
    any. Sources take turns, so that no shard is read by several moves that follow each other. Raises InvalidArgument when there
    are more shards than slots, or none."""
    if not 0 < len(after) <= len(owner):
        raise InvalidArgument(f"{len(after)} shards for {len(owner)} slots: from 1 to {len(owner)} are possible")
    had = {shard: np.flatnonzero(owner == shard).tolist() for shard in sorted({*owner.tolist(), *after})}
    wanted = _wanted({shard: len(had[shard]) for shard in after}, len(owner))
    leaving = [[(slot, shard) for slot in slots[wanted.get(shard, 0) :]] for shard, slots in had.items()]
    in_turns = [each for turn in zip_longest(*leaving) for each in turn if each is not None]
    room = [[shard] * max(0, wanted[shard] - len(had[shard])) for shard in after]
    targets = [shard for turn in zip_longest(*room) for shard in turn if shard is not None]
    return [Move(slot, source, target) for (slot, source), target in zip(in_turns, targets, strict=True)]


def _wanted(had: dict[int, int], slots: int) -> dict[int, int]:
    """Slots of each shard afterwards: those that have most now keep one more, which saves moves."""
    each, more = divmod(slots, len(had))
    richest = sorted(had, key=lambda shard: (-had[shard], shard))
    return {shard: each + (place < more) for place, shard in enumerate(richest)}
