"""The worker `days`: makes the leaves of the days to come, and drops those of days that are old and surely archived.

A day is dropped in two steps, so that no reading can be lost:

1. It leaves. When the archive says that it holds the day (mesh/codec/verified_days.py), the leaf is detached, in one transaction
   that lets nobody write the slot meanwhile and notes how far the slot is recorded: `passed`. Every reading in the leaf came from
   a record at or before `passed`, and none can be added: the recorder writes to sensor_readings, where the time of the leaf
   belongs to `history` from the same commit on. A late reading of that day goes there, is found by queries, and stays.
2. It is dropped, when the archive says that it holds all of the day that was recorded up to `passed`. Readings that came late,
   after what was verified at step 1 but before it, are in the leaf: they keep it until they are verified too.

Days leave in their order, each slot for itself, so that what is left follows `history` without a hole.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.codec.verified_days import VerifiedDays
from mesh.errors import Unavailable
from mesh.ports import Clock, Objects
from mesh.shard_map import hold
from mesh.shards import AnyShards, Shards, transaction
from mesh.stages import Progress
from query_svc.days_kept import DAYS_AHEAD, Kept, read_kept, utc_day
from query_svc.days_leaves import ONE_DAY, DaySpan, add_day, drop_left, let_leave, prove_history, read_spans
from query_svc.days_verified import newest_word

EVERY_S = 60.0
LOCK_MS = 500
"""As long a change of a slot waits for those who use it, while nobody else begins to. Then it is tried again a minute later."""
HOLD_S = 5.0
PROOF_TIMEOUT = "SET LOCAL statement_timeout = '1h'"
FEW_DAYS = 2
_BUSY = ("55P03", "40P01")  # lock_not_available, deadlock_detected
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Round:
    """What one look at all shards goes by. `word`: the archive's; None: there is none. `moving`: slots of an open resharding."""

    kept: Kept
    today: date
    word: VerifiedDays | None
    moving: frozenset[int]


class Days:
    """Once a minute, for all slots of all shards: makes the days up to a week ahead, lets the oldest leave, drops what has left.
    Each slot and day is one short transaction. A shard that is away keeps no other from it. Several at once do no harm."""

    def __init__(
        self, catalog: AsyncEngine, shards: AnyShards, objects: Objects, log_id: str, clock: Clock, progress: Progress
    ) -> None:
        self._catalog = catalog
        self._shards = shards
        self._objects = objects
        self._log_id = log_id
        self._clock = clock
        self._progress = progress

    async def run(self) -> None:
        """Runs until cancelled. Raises Unavailable when the catalog or the objects are away."""
        while True:
            await self.look()
            await self._clock.sleep(EVERY_S)

    async def look(self) -> None:
        """Does what is to be done now; `progress.problem` says what could not be. Safe to repeat, and to end at any moment."""
        kept = await read_kept(self._catalog)
        if kept is None or not kept.keep_days:
            self._progress.problem = ""
            return
        shards, today = self._shards.now, utc_day(self._clock.now_us())
        problems: list[str] = []
        making = _Round(kept, today, None, frozenset())
        await _each(shards, lambda shard, engine: self._make(making, shard, engine), problems)
        word = await newest_word(self._objects, self._log_id)
        dropping = _Round(kept, today, word, await _moving(self._catalog))
        await _each(shards, lambda shard, engine: self._drop(dropping, shard, engine), problems)
        self._progress.problem = "; ".join(dict.fromkeys(problems))

    async def _make(self, now: _Round, shard: int, engine: AsyncEngine) -> str:
        """The days of each slot reach a week ahead; a problem when they soon end and could not be made."""
        wanted = now.today + timedelta(days=DAYS_AHEAD)
        few = []
        for slot, span in (await _spans(engine)).items():
            day = span.last + ONE_DAY
            while day <= wanted and await self._made(engine, slot, day):
                day += ONE_DAY
            if day <= now.today + timedelta(days=FEW_DAYS):
                few.append(slot)
        return f"shard {shard}: readings of tomorrow have no table soon, slot {few[0]} is in use all the time" if few else ""

    async def _made(self, engine: AsyncEngine, slot: int, day: date) -> bool:
        async def make(connection: AsyncConnection) -> None:
            if await add_day(connection, slot, day):
                self._progress.handled_count += 1

        return await _unless_busy(engine, slot, make)

    async def _drop(self, now: _Round, shard: int, engine: AsyncEngine) -> str:
        """What is old leaves, and what has left and is held is dropped; a problem when a day stays for long."""
        oldest_kept = now.today - timedelta(days=now.kept.keep_days)
        stays = []
        for slot, span in (await _spans(engine)).items():
            day = span.first
            while day < min(oldest_kept, span.last) and slot not in now.moving and _holds(now.word, day, {}):
                if not await self._left(engine, slot, day):
                    break
                day += ONE_DAY
            stays.append(day)
        for slot, day, passed in await _leaving(engine, self._log_id):
            if not await self._dropped(engine, now.word, slot, day, passed):
                stays.append(day)
        oldest = min(stays, default=oldest_kept)
        if oldest >= oldest_kept - timedelta(days=FEW_DAYS):
            return ""
        why = "it is in use all the time" if _holds(now.word, oldest, {}) else "the archive does not say that it holds it"
        return f"shard {shard}: {oldest} is to be dropped for days, but {why}, or a resharding goes on"

    async def _left(self, engine: AsyncEngine, slot: int, day: date) -> bool:
        async def prove(connection: AsyncConnection) -> None:
            await connection.execute(text(PROOF_TIMEOUT))
            await prove_history(connection, slot)

        async def leave(connection: AsyncConnection) -> None:
            span = (await read_spans(connection)).get(slot)
            if span and span.first == day and await hold(connection, [slot], HOLD_S):
                await let_leave(connection, slot, day)
                left.append(day)

        left: list[date] = []
        if not (await _unless_busy(engine, slot, prove) and await _unless_busy(engine, slot, leave) and left):
            return False
        _log.info("a day leaves its slot", database=engine.url.database, slot=slot, day=day.isoformat())
        return True

    async def _dropped(
        self, engine: AsyncEngine, word: VerifiedDays | None, slot: int, day: date, passed: Mapping[tuple[str, int], int] | None
    ) -> bool:
        if passed is None or not _holds(word, day, passed):
            return False
        if not await _unless_busy(engine, slot, lambda connection: drop_left(connection, slot, day)):
            return False
        self._progress.handled_count += 1
        _log.info("a day is dropped", database=engine.url.database, slot=slot, day=day.isoformat())
        return True


def _holds(word: VerifiedDays | None, day: date, passed: Mapping[tuple[str, int], int]) -> bool:
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return word is not None and word.holds(round(begin.timestamp()) * 1_000_000, passed)


async def _each(shards: Shards, work: Callable[[int, AsyncEngine], Awaitable[str]], problems: list[str]) -> None:
    """`work` of every shard; of one that is away only the problem."""

    async def one(shard: int, engine: AsyncEngine) -> str:
        try:
            return await work(shard, engine)
        except Unavailable as error:
            return f"shard {shard}: {error.message}"

    problems.extend(filter(None, await shards.gather(one)))


async def _unless_busy(engine: AsyncEngine, slot: int, work: Callable[[AsyncConnection], Awaitable[None]]) -> bool:
    """`work` in a transaction, one at a time for a slot; False: somebody used what it needs for too long, and nothing is done."""
    try:
        async with transaction(engine) as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('query_svc.days'), :slot)"), {"slot": slot})
            await work(connection)
    except Unavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) not in _BUSY:
            raise
        return False
    return True


async def _spans(engine: AsyncEngine) -> dict[int, DaySpan]:
    """Of the slots that have days."""
    async with transaction(engine) as connection:
        return {slot: span for slot, span in (await read_spans(connection)).items() if span}


async def _leaving(engine: AsyncEngine, log_id: str) -> list[tuple[int, date, Mapping[tuple[str, int], int] | None]]:
    """Slots and days that have left, and how far each slot was recorded then; None: in another log."""
    async with transaction(engine) as connection:
        rows = (await connection.execute(text("SELECT slot, day, passed FROM days_leaving ORDER BY slot, day"))).all()
    found: list[tuple[int, date, Mapping[tuple[str, int], int] | None]] = []
    for slot, day, passed in rows:
        ours = all(log == log_id for log, *_ in passed)
        found.append((slot, day, {(topic, number): offset for _, topic, number, offset in passed} if ours else None))
    return found


async def _moving(catalog: AsyncEngine) -> frozenset[int]:
    """Slots that a resharding is to move: their days stay until it has ended, so that both shards have the same."""
    async with transaction(catalog) as connection:
        if (await connection.execute(text("SELECT to_regclass('slot_moves')"))).scalar_one() is None:
            return frozenset()
        return frozenset((await connection.execute(text(_MOVING))).scalars())


_MOVING = "SELECT slot FROM slot_moves JOIN reshardings USING (number) WHERE ended_at IS NULL"
