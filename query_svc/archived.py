"""How far the archive is: which accepted and backfill offsets are in objects of the manifest, and waiting for them (law 1)."""

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import positions
from mesh.ports import Clock, Partition
from mesh.positions import NO_SLOT
from mesh.shards import transaction
from mesh.topics import SCREENED, SCREENED_BACKFILL, SOURCE_OF
from query_svc.recorded import Latest, passed, wait_until

STAGE = "archive"


class Archived:
    """Reads the archive's positions in the catalog database; callers share the reads, as those of Recorded do."""

    def __init__(self, catalog: AsyncEngine, log_id: str, clock: Clock) -> None:
        self._catalog = catalog
        self._log_id = log_id
        self._clock = clock
        self._latest = Latest(self._read, clock)

    async def offsets(self) -> Mapping[Partition, int]:
        """For each partition of accepted and backfill the offset up to which everything is archived, read after the call; one
        that the archive has not begun is missing (-1). Raises Unavailable when the catalog database is away."""
        return await self._latest.fresh()

    async def wait_for(self, wanted: Mapping[Partition, int], wait_s: float) -> bool:
        """Whether everything up to these offsets was archived within `wait_s`. Returns as soon as it is."""
        return await wait_until(lambda offsets: passed(wanted, offsets), self._latest, wait_s, self._clock)

    async def _read(self) -> Mapping[Partition, int]:
        async with transaction(self._catalog) as connection:
            found = await positions.read(connection, STAGE, self._log_id, (SCREENED, SCREENED_BACKFILL))
        return {
            Partition(SOURCE_OF[partition.topic], partition.number): position.source_offset
            for (slot, partition), position in found.items()
            if slot == NO_SLOT
        }
