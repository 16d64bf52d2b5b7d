"""The part of a random history that happens to shards, as far as it can happen now."""

from tests.flows.mesh import Mesh
from tests.flows.schedule import Away, Freeze, Living, Moved
from tests.query.shard_trouble import Move, come_back, freeze, go_away


class ShardTrouble:
    """Knows what is away and what is frozen."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._away: set[int] = set()
        self._frozen: set[int] = set()

    async def make(self, action: Away | Freeze | Moved | Living) -> None:
        """Does it, or nothing where it cannot be done: a database that is away cannot freeze a slot, nor give one."""
        match action:
            case Away(shard, back):
                await (come_back if back else go_away)(self._mesh.shard_urls[shard])
                self._away = self._away - {shard} if back else self._away | {shard}
            case Living():
                if len(self._away) == 1 and not self._frozen:
                    await self._mesh.living_recorded(1 - next(iter(self._away)))
            case Freeze(slot, writable):
                now = self._mesh.shards.now
                if int(now.owner[slot]) not in self._away:
                    await freeze(now.engines[int(now.owner[slot])], slot, writable=writable)
                    self._frozen = self._frozen - {slot} if writable else self._frozen | {slot}
            case Moved(slot):
                await self._move(slot)

    async def _move(self, slot: int) -> None:
        if self._away:
            return
        shards = await self._mesh.shards.newer()
        await Move(self._mesh.catalog, self._mesh.shards, slot, 1 - int(shards.owner[slot])).run()
        self._frozen.discard(slot)
