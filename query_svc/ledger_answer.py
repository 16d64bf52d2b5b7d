"""What became of every reading: sums the ledgers of the catalog and of all shards, and tells whether the laws hold."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import Unavailable
from mesh.ports import Clock, Log, Partition
from mesh.shards import AnyShards, transaction
from mesh.topics import ACCEPTED, BACKFILL, DEAD, REFUSED
from query_svc.archived import Archived
from query_svc.fences import last_offsets, read_counted
from query_svc.recorded import POLL_S, READ_WITHIN_S, Latest, Recorded, passed, wait_until

_Key = tuple[str, int]
MOST_TRIES = 20
SUM_WITHIN_S = 30.0
_T = TypeVar("_T")
_COUNTED = (ACCEPTED, BACKFILL, REFUSED, DEAD)


@dataclass(frozen=True, slots=True)
class Question:
    """Which hours of which gateways (none named: all); `after`: the last key of the page before."""

    gateway_ids: Sequence[str] = ()
    start_us: int | None = None
    end_us: int | None = None
    page_size: int = 1000
    after: _Key | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """All counts of one gateway in one hour of arrival, by the measures of mesh.ledger."""

    gateway_id: str
    hour_us: int
    counts: Mapping[str, int] = field(default_factory=dict)
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Entries by gateway, then hour; `more`: there are further ones. `balanced` is about the whole answer, not the page."""

    entries: Sequence[Entry]
    more: bool
    balanced: bool


class LedgerAnswer:
    """Reads only. A shard that is away makes every answer Unavailable within seconds: a sum without it would be wrong.
    `archived`: there is an archive, whose law must hold too; without one nobody waits for it."""

    def __init__(
        self, log: Log, catalog: AsyncEngine, shards: AnyShards, recorded: Recorded, clock: Clock, *, archived: bool = False
    ) -> None:
        self._log = log
        self._shards = shards
        self._catalog = catalog
        self._recorded = recorded
        self._archived = Archived(catalog, log.log_id, clock) if archived else None
        self._clock = clock
        self._counted = Latest(lambda: read_counted(catalog, log.log_id), clock)

    async def answer(self, question: Question, at_least: Mapping[Partition, int], wait_s: float) -> tuple[Page, bool]:
        """A page, and whether every stage had passed what was in the Log (`caught_up`). Sums that disagree while readings arrive
        are no news: then it looks again, as long as it may wait, and at last says that the stages have not caught up."""
        deadline_us = self._clock.now_us() + round(wait_s * 1_000_000)
        while True:
            before = last_offsets(await self._log.ends(_COUNTED))
            caught_up = await self.caught_up(at_least, self._left_s(deadline_us))
            page = await self.page(question)
            if not caught_up or page.balanced or last_offsets(await self._log.ends(_COUNTED)) == before:
                return page, caught_up
            if self._clock.now_us() >= deadline_us:
                return page, False
            await self._clock.sleep(POLL_S)

    async def caught_up(self, at_least: Mapping[Partition, int], wait_s: float) -> bool:
        """Whether every stage has passed what is in the Log now, and `at_least`, within `wait_s`: first accepted, backfill
        and refused; then what `dead` holds by then, since a stage buries a record before it passes it."""
        deadline_us = self._clock.now_us() + round(wait_s * 1_000_000)
        wanted = last_offsets(await self._log.ends((ACCEPTED, BACKFILL, REFUSED)))
        for partition, offset in at_least.items():
            wanted[partition] = max(wanted.get(partition, -1), offset)
        screened = {partition: offset for partition, offset in wanted.items() if partition.topic != REFUSED}
        if not await self._recorded.wait_for(screened, wait_s) or not await self._wait_counted(wanted, deadline_us):
            return False
        if self._archived and not await self._archived.wait_for(screened, self._left_s(deadline_us)):
            return False
        return await self._wait_counted(last_offsets(await self._log.ends((DEAD,))), deadline_us)

    async def page(self, question: Question) -> Page:
        """Sums as of now. What is settled is read first: a sum that is called final was read after it became so."""
        return await self._over_one_set(lambda databases: self._page(databases, question))

    async def _page(self, databases: Sequence[AsyncEngine], question: Question) -> Page:
        settled = await self._settled(question)
        sums: dict[_Key, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for database in databases:
            for gateway_id, hour_us, counts in await self._rows(database, question):
                for measure, count in counts.items():
                    sums[gateway_id, hour_us][measure] += count
        keys = sorted(sums)
        shown = keys[: question.page_size]
        entries = [Entry(gateway_id, hour, dict(sums[gateway_id, hour]), hour in settled) for gateway_id, hour in shown]
        return Page(entries, len(keys) > len(shown), await self._balanced(databases, question))

    async def totals(self) -> dict[str, int]:
        """Sums over all gateways and hours, by measure, as of now."""
        return await self._over_one_set(self._totals)

    async def _totals(self, databases: Sequence[AsyncEngine]) -> dict[str, int]:
        sums: dict[str, int] = defaultdict(int)
        for database in databases:
            async with transaction(database, SUM_WITHIN_S) as connection:
                for measure, count in await connection.execute(text(_TOTALS)):
                    sums[measure] += int(count)
        return dict(sums)

    async def _over_one_set(self, read: Callable[[Sequence[AsyncEngine]], Awaitable[_T]]) -> _T:
        """`read` of everything that holds counts, the catalog first, while no shard left: what one has counted goes to the
        catalog when it leaves (query_svc/reshard/retiring.py), and would be summed twice or not at all."""
        for _ in range(MOST_TRIES):
            shards, in_map = self._shards.now, await self._in_map()
            if in_map in (set(), set(shards.engines)):  # none: a map that never changes is not in the catalog
                await shards.gather(_must_answer)
                found = await read((self._catalog, *shards.engines.values()))
                if await self._in_map() == in_map:
                    return found
            await self._shards.newer()
            await self._clock.sleep(POLL_S)
        raise Unavailable(f"the shards changed {MOST_TRIES} times while they were summed", reason="SHARD_MOVED")

    async def _in_map(self) -> set[int]:
        async with transaction(self._catalog) as connection:
            return set((await connection.execute(text("SELECT shard FROM shards WHERE NOT retired"))).scalars())

    async def _wait_counted(self, wanted: Mapping[Partition, int], deadline_us: int) -> bool:
        return await wait_until(lambda counted: passed(wanted, counted), self._counted, self._left_s(deadline_us), self._clock)

    def _left_s(self, deadline_us: int) -> float:
        return max(0.0, (deadline_us - self._clock.now_us()) / 1_000_000)

    async def _rows(self, database: AsyncEngine, question: Question) -> list[tuple[str, int, dict[str, int]]]:
        """The first keys that this database has, one more than the page holds: so the union has the first of all."""
        gateway_id, hour_us = question.after or (None, None)
        arguments = {**_arguments(question), "after": gateway_id, "after_hour": hour_us, "most": question.page_size + 1}
        async with transaction(database, SUM_WITHIN_S) as connection:
            return [tuple(row) for row in await connection.execute(text(_PAGE), arguments)]

    async def _balanced(self, databases: Sequence[AsyncEngine], question: Question) -> bool:
        """Whether the laws of the shards and of the archive hold for each key. Every database sums its counts, signed, each with
        a weight drawn by a hash of its key: together they give 0 when each key balances, and by chance alone once in 2**60."""
        in_shards = in_archive = 0
        for database in databases:
            async with transaction(database, SUM_WITHIN_S) as connection:
                recorded, archived = (await connection.execute(text(_WEIGHED), _arguments(question))).one()
            in_shards, in_archive = in_shards + int(recorded), in_archive + int(archived)
        return in_shards == 0 and (self._archived is None or in_archive == 0)

    async def _settled(self, question: Question) -> set[int]:
        async with transaction(self._catalog) as connection:
            return set((await connection.execute(text(_SETTLED), _arguments(question))).scalars())


async def _must_answer(shard: int, engine: AsyncEngine) -> None:
    """So that one that does not answer is known before the others are summed."""
    try:
        async with transaction(engine, READ_WITHIN_S) as connection:
            await connection.execute(text("SELECT 1"))
    except Unavailable as error:
        raise Unavailable(f"no sum without shard {shard}: {error.message}", reason=error.reason) from error


def _arguments(question: Question) -> dict[str, object]:
    return {"gateways": list(question.gateway_ids) or None, "start": question.start_us, "end": question.end_us}


_HOURS = "(CAST(:start AS bigint) IS NULL OR hour_us >= :start) AND (CAST(:end AS bigint) IS NULL OR hour_us < :end)"
_WHERE = f"(CAST(:gateways AS text[]) IS NULL OR gateway_id = ANY(CAST(:gateways AS text[]))) AND {_HOURS}"

_PAGE = f"""
SELECT gateway_id, hour_us, jsonb_object_agg(measure, count) FROM ledger
WHERE {_WHERE} AND (CAST(:after AS text) IS NULL OR (gateway_id, hour_us) > (:after, CAST(:after_hour AS bigint)))
GROUP BY gateway_id, hour_us ORDER BY gateway_id, hour_us LIMIT :most
"""

# Signs of each measure in accepted - stored - duplicate - conflicting - dead, and in accepted - archived - dead.
_WEIGHED = f"""
SELECT coalesce(sum(weight * of_shards), 0), coalesce(sum(weight * of_archive), 0)
FROM (SELECT measure, CAST(hashtextextended(gateway_id, hour_us) AS numeric) * count AS weight FROM ledger WHERE {_WHERE}) AS l
JOIN (VALUES ('accepted', 1, 1), ('dead:screen', -1, -1), ('stored', -1, 0), ('duplicate', -1, 0), ('conflicting', -1, 0),
             ('dead:record', -1, 0), ('archived', 0, -1), ('dead:archive', 0, -1)) AS law (measure, of_shards, of_archive)
USING (measure)
"""

_TOTALS = "SELECT measure, sum(count) FROM ledger GROUP BY measure"

_SETTLED = f"SELECT hour_us FROM hour_fences WHERE settled AND {_HOURS}"
