"""Which shards are away, why, and when is it time to look at one again?"""

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

LONGEST_LOOK_S = 3.0
LONGEST_PAUSE_S = 30.0
WELL_AFTER_S = 60.0


@dataclass(slots=True)
class _Pause:
    until_s: float = 0.0
    looks: int = 0
    failures: int = 0
    joined_s: float | None = None


class Pauses:
    """A shard that does not answer is looked at again after 1 to 3 s or so. One that answers and then fails to write keeps others
    waiting each time it is tried: it rests twice as long after each failure, up to 30 s, until it has been well for a minute."""

    def __init__(self, chance: random.Random, now_s: Callable[[], float]) -> None:
        self._chance = chance
        self._now_s = now_s
        self._pauses: dict[int, _Pause] = defaultdict(_Pause)
        self.why: dict[int, str] = {}
        """By shard why it is away."""

    def due(self, shard: int) -> bool:
        """Whether to look at it now."""
        return self._now_s() >= self._pauses[shard].until_s

    def failed(self, shard: int, why: str) -> None:
        """A write has failed."""
        pause = self._pauses[shard]
        if pause.joined_s is not None and self._now_s() - pause.joined_s > WELL_AFTER_S:
            pause.failures = 0
        self._rest(shard, why, min(LONGEST_PAUSE_S, 2.0**pause.failures))
        pause.failures = min(pause.failures + 1, 10)

    def silent(self, shard: int, why: str) -> None:
        """It was looked at, and did not answer."""
        pause = self._pauses[shard]
        pause.looks = min(pause.looks + 1, 10)
        self._rest(shard, why, min(LONGEST_LOOK_S, 0.5 * 2.0**pause.looks))

    def answered(self, shard: int) -> None:
        """It was looked at."""
        self._pauses[shard].looks = 0
        self.why.pop(shard, None)

    def forget(self, known: Collection[int]) -> None:
        """All others have left the map."""
        for shard in set(self.why) - set(known):
            del self.why[shard]

    def joined(self, shards: Iterable[int]) -> None:
        """Slots of theirs are written with the others again."""
        for shard in shards:
            self._pauses[shard].joined_s = self._now_s()

    def _rest(self, shard: int, why: str, pause_s: float) -> None:
        self.why[shard] = why
        self._pauses[shard].until_s = self._now_s() + pause_s * (0.5 + self._chance.random())
