"""The worker `compact`: puts days that are over together, deletes what that replaced, says of which days the archive is sure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc.compact_day import CompactDay
from archive_svc.day_tables import DAY_US, DayTables
from archive_svc.manifest_record import ManifestRow
from archive_svc.restore_losers import LogPlace, Losers
from archive_svc.sure_days import SureDays
from archive_svc.sweep import Sweep
from archive_svc.tables import COMPACTED
from mesh.errors import FailedPrecondition
from mesh.ports import Clock, Objects
from mesh.stages import Progress

EVERY_S = 60.0
GRACE_S = 3600.0
QUIET_S = 3600.0
SURE_AFTER_H = 6.0
_log = structlog.get_logger()


class Compact:
    """Once a minute: days of our own log that ended `after_h` ago (0: none is put together), for which no chunk was cut in the
    last hour, and of whose readings it is told which ones lost, become one object per region, sorted and without duplicates.
    A chunk that comes later makes the day ready for it once more. What was replaced is deleted an hour later.

    Then objects of closed days are read back that were not yet, and the word of the verified days is put. Of several workers at a
    time one works. A day that cannot be put together is a problem of the stage and keeps no other from it.
    """

    def __init__(
        self,
        log_id: str,
        objects: Objects,
        catalog: AsyncEngine,
        progress: Progress,
        clock: Clock,
        after_h: float,
        by_json: bool = False,
        grace_s: float = GRACE_S,
        quiet_s: float = QUIET_S,
        scratch: Path | None = None,
    ) -> None:
        self._log_id = log_id
        self._objects = objects
        self._progress = progress
        self._clock = clock
        self._after_h = after_h
        self._grace_us, self._quiet_us = round(grace_s * 1e6), round(quiet_s * 1e6)
        self._days = DayTables(catalog, log_id)
        self._losers = Losers(catalog)
        self._compact = CompactDay(log_id, objects, self._days, self._losers, clock, by_json, scratch)
        self._sweep = Sweep(catalog, objects, log_id)
        self._sure = SureDays(catalog, objects, log_id, clock)

    async def run(self) -> None:
        """Runs until cancelled, at any moment. Raises PositionLost when another worker compacts, Unavailable when the catalog or
        the objects are away: start again."""
        while True:
            await self.once()
            await self._clock.sleep(EVERY_S)

    async def once(self) -> int:
        """Everything that is due is done on return; how many days were put together."""
        async with self._days.alone() as is_ours:
            if not is_ours:
                return 0
            for note in await self._days.untold():
                await self._compact.tell(note)
            now_us = self._clock.now_us()
            before_us = (now_us - round((self._after_h or SURE_AFTER_H) * 3.6e9)) // DAY_US * DAY_US
            count, problems = await self._compact_days(before_us, now_us) if self._after_h else (0, [])
            swept, unswept = await self._sweep.run(self._clock.now_us() - self._grace_us)
            checked, unsound = await self._sure.verify(before_us)
            await self._sure.say(before_us)
            self._progress.handled_count += count + swept + checked
            problems += unswept + unsound
            self._progress.problem = f"{len(problems)} problems, the first: {problems[0]}" if problems else ""
        return count

    async def _compact_days(self, before_us: int, now_us: int) -> tuple[int, list[str]]:
        """How many days were put together, and why others were not."""
        candidates = await self._days.candidates(before_us, now_us - self._quiet_us)
        if not candidates:
            return 0, []
        try:
            known = await self._losers.read({self._log_id}, self._objects, None)
        except FailedPrecondition as error:
            return 0, [error.message]
        count, untold = 0, 0
        problems: list[str] = []
        for region, day_us in candidates:
            parts = await self._days.parts(region, day_us)
            if not self._is_told(parts, known):
                untold += 1
                continue
            try:
                note = await self._compact.run(region, day_us, parts)
            except FailedPrecondition as error:
                problems.append(error.message)
                _log.warning("a day cannot be compacted", region=region, day_us=day_us, problem=error.message)
                continue
            count += 1
            counts = {"objects": len(parts), "readings": note.reading_count, "undecided": note.undecided_count}
            _log.info("day compacted", stem=note.stem, duplicates=note.duplicate_count, lost=note.loser_count, **counts)
        if untold:
            _log.info("days wait until it is told which of their readings lost", days=untold)
        return count, problems

    def _is_told(self, parts: Sequence[ManifestRow], known: Mapping[LogPlace, int]) -> bool:
        """Whether it is known of all of them which readings lost."""
        return all(
            part.topic == COMPACTED or part.last_offset <= known.get((part.log_id, part.topic, part.partition), -1)
            for part in parts
        )
