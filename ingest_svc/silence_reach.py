"""Up to when has everybody been heard who handed readings over, and could they hand any over at all?"""

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import stages
from mesh.ports import Clock, Log
from mesh.shards import transaction
from mesh.topics import ACCEPTED

ACCEPT = "accept"


class Reach:
    """Looks at the end of `accepted`: once everything that it held has come through screening, everybody was heard up to that
    look. `until_us`: up to when that is; 0 until it is known."""

    def __init__(self, log: Log, catalog: AsyncEngine, clock: Clock, away_s: float) -> None:
        self._log = log
        self._catalog = catalog
        self._clock = clock
        self._away_us = round(away_s * 1e6)
        self._wanted: Mapping[int, int] = {}
        self._wanted_at_us: int | None = None
        self._looked_at_us = clock.now_us()
        self.until_us = 0

    async def look(self, heard: Mapping[int, int]) -> bool:
        """`heard`: the last source offset that came through of each partition. False: somebody who spoke may not have been
        heard, since for longer than `away_s` we stood still, screening is behind, or nobody accepts readings."""
        now_us = self._clock.now_us()
        stood_still = now_us - self._looked_at_us > self._away_us
        self._looked_at_us = now_us
        if self._wanted_at_us is None or all(heard.get(number, -1) >= offset for number, offset in self._wanted.items()):
            self.until_us = self._wanted_at_us or 0
            ends = await self._log.ends([ACCEPTED])
            self._wanted = {partition.number: end.next - 1 for partition, end in ends.items()}
            self._wanted_at_us = now_us
        is_behind = now_us - self._wanted_at_us > self._away_us
        return not (stood_still or is_behind or await self._nobody_accepts(now_us))

    async def _nobody_accepts(self, now_us: int) -> bool:
        async with transaction(self._catalog) as connection:
            heard = await stages.read(connection)
        return not any(beat.stage == ACCEPT and now_us - beat.at_us <= self._away_us for beat in heard)
