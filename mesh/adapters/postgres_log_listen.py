"""How one process hears of what others append to the embedded Log: notices, and a slow poll where they fail."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from mesh.adapters.postgres_connections import Connections
from mesh.adapters.postgres_log_tips import Tips
from mesh.adapters.postgres_notices import Notices, listening
from mesh.errors import Unavailable
from mesh.ports import Partition

CHANNEL = "wq_log"
MEMBERS = "members"
_POLL_S = 1.0
_NEXT_OFFSETS = "SELECT topic, number, next_offset FROM log.partitions"


async def read_next_offsets(database: Connections) -> dict[Partition, int]:
    """The next offset of every partition, now."""
    return {Partition(topic, number): next_offset for topic, number, next_offset in await database.fetch(_NEXT_OFFSETS)}


def log_notices(conninfo: str, database: Connections, tips: Tips) -> Notices:
    """Lines `topic number next_offset` where records came, `members` where members of a group came or went."""

    def hear(line: str) -> None:
        if line in ("", MEMBERS):
            tips.change_members()
        else:
            topic, number, next_offset = line.split()
            tips.moved({Partition(topic, int(number)): int(next_offset)})

    return Notices(conninfo, database, CHANNEL, hear)


def tell_moved(notices: Notices, next_offset: Mapping[Partition, int]) -> None:
    """Tells the others of our appends."""
    for partition, offset in next_offset.items():
        name = f"{partition.topic} {partition.number}"
        notices.tell(name, f"{name} {offset}")


@asynccontextmanager
async def hearing(notices: Notices, database: Connections, tips: Tips) -> AsyncIterator[None]:
    """`tips` hears of all appends, and the others of ours, while the body runs."""
    async with listening(notices):
        poll = asyncio.create_task(_poll(database, tips))
        try:
            yield
        finally:
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)


async def _poll(database: Connections, tips: Tips) -> None:
    while True:
        await asyncio.sleep(_POLL_S)
        with suppress(Unavailable):
            tips.moved(await read_next_offsets(database))
