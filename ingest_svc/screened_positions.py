"""Up to where the screener's checkpoints reach, told to the table `positions`, so that retention keeps what is still needed."""

from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import positions
from mesh.ports import Partition
from mesh.positions import NO_SLOT, NOWHERE, Position
from mesh.shards import transaction

STAGE = "screen"


class ScreenedPositions:
    """A hint for retention only: a screener begins where its checkpoint ends."""

    def __init__(self, catalog: AsyncEngine, log_id: str) -> None:
        self._catalog = catalog
        self._log_id = log_id

    async def moved(self, partition: Partition, offset: int) -> None:
        """Moves the position forward, never back. Raises Unavailable when the database is away, PositionLost when another
        screener has moved it meanwhile."""
        async with transaction(self._catalog) as connection:
            found = await positions.read(connection, STAGE, self._log_id, (partition.topic,))
            now = found.get((NO_SLOT, partition), NOWHERE)
            if now.offset < offset:
                await positions.move(connection, STAGE, self._log_id, partition, {NO_SLOT: now}, Position(offset, -1))
