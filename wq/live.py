"""What a running system tells its operator: one line that moves, and a summary at the end."""

from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.text import Text
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import ledger
from mesh.errors import Unavailable
from mesh.ports import Clock
from mesh.shards import transaction
from query_svc.status import PipelineStatus, Status

EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Readings since the data directory was made."""

    accepted: int
    stored: int
    duplicate: int
    conflicting: int
    refused: int


async def read_totals(databases: tuple[AsyncEngine, ...]) -> Totals:
    """Sums of the ledger. Its size is gateways times hours, and settled hours are few rows each."""
    sums: dict[str, int] = {}
    for database in databases:
        async with transaction(database) as connection:
            for measure, count in await connection.execute(text("SELECT measure, sum(count) FROM ledger GROUP BY measure")):
                sums[measure] = sums.get(measure, 0) + int(count)
    refused = sum(count for measure, count in sums.items() if measure.startswith("refused:"))
    kept = (sums.get(name, 0) for name in (ledger.ACCEPTED, ledger.STORED, ledger.DUPLICATE, ledger.CONFLICTING))
    return Totals(*kept, refused)
