"""What does one query get: checks, freshness, the page's place, the data, the next page's token. The arrow of reads."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, TypeVar

import numpy as np

from mesh.clock import SystemClock
from mesh.errors import TooLarge, Unavailable
from mesh.pages import page_size, read_cursor, write_cursor
from mesh.shards import AnyShards, Shards
from query_svc.aggregate import After, AggregateQuestion, aggregate, check_question
from query_svc.bulk import stream_readings
from query_svc.filters import ReadingFilter, check_filter
from query_svc.freshness import Freshness, wait_until_readable
from query_svc.groups import Grouping
from query_svc.latest import latest
from query_svc.list_readings import list_readings
from query_svc.moved import read_where_it_is
from query_svc.places import Places
from query_svc.recorded import Recorded
from query_svc.selection import LOWEST_SENSOR, select
from query_svc.series import Series
from query_svc.slices import Place, Slice
from water.readings import Readings

LONGEST_QUERY_S = 60.0
DEFAULT_READINGS, MOST_READINGS = 1_000, 10_000
DEFAULT_SERIES, MOST_SERIES = 100, 1_000
MOST_QUERIES = 32
MOST_STREAMS = 8

_T = TypeVar("_T")
WriteFrame = Callable[[Readings, str], Awaitable[None]]


class Paging(NamedTuple):
    """Which page is asked for, as it was asked."""

    size: int = 0
    token: str = ""


class Answer:
    """Reads, for any number of callers: at most 32 queries and 8 bulk streams run at once, a query for at most 60 s; more are
    told to try again (Unavailable, TOO_MANY_QUERIES)."""

    def __init__(self, shards: AnyShards, places: Places, recorded: Recorded, log_id: str) -> None:
        self._shards = shards
        self._places = places
        self._recorded = recorded
        self._log_id = log_id
        self._clock = SystemClock()
        self._running = {"queries": 0, "streams": 0}

    async def get_latest(self, asked: ReadingFilter, paging: Paging, freshness: Freshness) -> tuple[Readings, str]:
        """Newest readings by sensor, and the token of the next page, empty at the end."""
        check_filter(asked, ignore_times=True)
        size = page_size(paging.size, DEFAULT_READINGS, MOST_READINGS)
        question = asked.fingerprint()
        cursor = read_cursor("latest", question, paging.token, [int])
        async with self._query(freshness, asked):
            selection = await select(asked, self._places)
            lowest = cursor[0] + 1 if cursor else LOWEST_SENSOR
            found = await self._read(lambda shards: latest(shards, selection, lowest, size + 1))
        if len(found) <= size:
            return found, ""
        page = found.take(np.arange(size))
        return page, write_cursor("latest", question, [int(page.sensor_id[-1])])

    async def list_readings(self, asked: ReadingFilter, paging: Paging, freshness: Freshness) -> tuple[Slice, str]:
        """Readings by sensor and time, with regions, and the token of the next page, empty at the end."""
        check_filter(asked)
        size = page_size(paging.size, DEFAULT_READINGS, MOST_READINGS)
        question = asked.fingerprint()
        cursor = read_cursor("readings", question, paging.token, [int, int])
        async with self._query(freshness, asked):
            selection = await select(asked, self._places)
            after = Place(*cursor) if cursor else None
            found = await self._read(lambda shards: list_readings(shards, selection, after, size + 1))
        if len(found) <= size:
            return found, ""
        page = found.cut(0, size)
        return page, write_cursor("readings", question, page.place(size - 1))

    async def aggregate(
        self, asked: ReadingFilter, what: AggregateQuestion, paging: Paging, freshness: Freshness
    ) -> tuple[list[Series], str]:
        """Series by group and parameter, and the token of the next page, empty at the end."""
        check_filter(asked)
        check_question(what, asked.without_flags)
        size = page_size(paging.size, DEFAULT_SERIES, MOST_SERIES)
        question = asked.fingerprint(what)
        key = int if what.grouping is Grouping.SENSOR else str
        cursor = read_cursor("aggregate", question, paging.token, [key, int])
        async with self._query(freshness, asked):
            selection = await select(asked, self._places)
            after = After(*cursor) if cursor else None
            page = await self._read(lambda shards: aggregate(shards, self._places, selection, what, after, size))
        return page.series, write_cursor("aggregate", question, page.next) if page.next else ""

    async def stream_readings(self, asked: ReadingFilter, resume_token: str, freshness: Freshness, write: WriteFrame) -> None:
        """Writes all readings in frames of up to 20,000, each with the token to go on after it. Waits for `write`."""
        check_filter(asked)
        question = asked.fingerprint()
        cursor = read_cursor("stream", question, resume_token, [int, int], "resume_token")
        with self._place("streams", MOST_STREAMS):
            await wait_until_readable(self._recorded, self._log_id, freshness, asked.sensor_ids)
            selection = await select(asked, self._places)

            async def write_slice(found: Slice) -> None:
                await write(found.readings, write_cursor("stream", question, found.place(len(found) - 1)))

            await stream_readings(self._shards, selection, Place(*cursor) if cursor else None, write_slice)

    async def _read(self, read: Callable[[Shards], Awaitable[_T]]) -> _T:
        return await read_where_it_is(self._shards, read, self._clock)

    @asynccontextmanager
    async def _query(self, freshness: Freshness, asked: ReadingFilter) -> AsyncIterator[None]:
        await wait_until_readable(self._recorded, self._log_id, freshness, asked.sensor_ids)
        with self._place("queries", MOST_QUERIES):
            try:
                async with asyncio.timeout(LONGEST_QUERY_S):
                    yield
            except TimeoutError as error:
                message = f"no answer within {LONGEST_QUERY_S:g} s: ask for fewer sensors or a shorter time"
                raise TooLarge(message, reason="QUERY_TOO_LONG") from error

    @contextmanager
    def _place(self, kind: str, most: int) -> Iterator[None]:
        if self._running[kind] >= most:
            raise Unavailable(f"{most} {kind} are running, the most at once", reason="TOO_MANY_QUERIES", retry_after_s=1.0)
        self._running[kind] += 1
        try:
            yield
        finally:
            self._running[kind] -= 1
