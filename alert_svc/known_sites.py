"""Which sites are there, as the newest catalog context in the Log says?"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence

from mesh.codec.catalog_sites import read_site_ids
from mesh.codec.log_records import ContextChange, ContextKind, read_accepted
from mesh.errors import Fault, InvalidArgument, NotFound
from mesh.ports import Clock, Log, Objects, Partition, Stored
from mesh.stages import Progress
from mesh.topics import CONTEXTS

POLL_S = 1.0
PATIENCE_S = 3.0
LOOK_S = 0.1
BLOCK = 256
_CHANGES = Partition(CONTEXTS, 0)


class KnownSites:
    """Follows the topic `contexts` and keeps the ids of one version of the catalog. Sites are never deleted, so a site that is
    known stays so. A publisher puts a new site there within seconds: who asks for one that is not known waits a little."""

    def __init__(self, log: Log, objects: Objects, progress: Progress, clock: Clock) -> None:
        self._log = log
        self._objects = objects
        self._progress = progress
        self._clock = clock
        self._sites: frozenset[str] = frozenset()
        self._version = 0
        self._next: int | None = None
        self._looking = asyncio.Lock()
        self._looks = 0

    async def run(self) -> None:
        """Looks once a second, until cancelled at any moment. Raises Unavailable when the Log or the objects are away, Fault when
        the object of the newest catalog is missing or not what it was."""
        if self._next is not None:
            self._progress.started(_CHANGES, self._next)
        while True:
            await self._look()
            self._progress.problem = ""
            await self._clock.sleep(POLL_S)

    async def unknown(self, site_ids: Iterable[str]) -> list[str]:
        """Those of these sites that do not exist, sorted. At once when all are known, else after up to 3 s, in which a site that
        was created a moment ago becomes known. Raises as `run` does."""
        until_us = self._clock.now_us() + round(PATIENCE_S * 1e6)
        wanted = frozenset(site_ids)
        while wanted - self._sites:
            await self._look()
            if not wanted - self._sites or self._clock.now_us() >= until_us:
                break
            await self._clock.sleep(LOOK_S)
        return sorted(wanted - self._sites)

    async def _look(self) -> None:
        """What was in the topic when this was called is known on return. Many callers cause one look, or two."""
        looks = self._looks
        async with self._looking:
            if self._looks > looks:
                return  # it began after we asked
            self._looks += 1
            start = self._next if self._next is not None else await self._begin()
            while stored := await self._log.read(_CHANGES, start, BLOCK):
                await self._use(_newest(stored))
                start = self._next = stored[-1].offset + 1
                self._progress.covered(_CHANGES, start, len(stored))

    async def _begin(self) -> int:
        """The newest change of the catalog is looked for from the end backwards: the topic is kept for ever."""
        first, end = (await self._log.ends([CONTEXTS]))[_CHANGES]
        start = end
        while start > first:
            start = max(first, start - BLOCK)
            if _newest(await self._log.read(_CHANGES, start, BLOCK)):
                break
        self._progress.started(_CHANGES, start)
        return start

    async def _use(self, change: ContextChange | None) -> None:
        if change is None or change.version <= self._version:
            return
        where = f"CATALOG context version {change.version}, object {change.object_path}"
        try:
            content = await self._objects.get(change.object_path)
        except NotFound as error:
            raise Fault(f"{where}: it is missing, so nobody can tell which sites there are; put it back") from error
        if hashlib.sha256(content).hexdigest() != change.sha256:
            raise Fault(f"{where}: its content does not match the checksum {change.sha256}; put the right one back")
        try:
            self._sites = await asyncio.to_thread(read_site_ids, content)
        except InvalidArgument as error:
            raise Fault(f"{where}: {error}") from error
        self._version = change.version


def _newest(records: Sequence[Stored]) -> ContextChange | None:
    """The greatest change of the catalog among these; what cannot be read is none."""
    changes = [change for stored in records if (change := _catalog_change(stored))]
    return max(changes, key=lambda change: change.version, default=None)


def _catalog_change(stored: Stored) -> ContextChange | None:
    try:
        content = read_accepted(stored.record.value)
    except InvalidArgument:
        return None
    return content if isinstance(content, ContextChange) and content.kind == ContextKind.CATALOG else None
