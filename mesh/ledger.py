"""How many readings became what: the shared table `ledger`, added to in the transaction of the effect that is counted (law 1)."""

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

ACCEPTED = "accepted"
STORED = "stored"
DUPLICATE = "duplicate"
CONFLICTING = "conflicting"
ARCHIVED = "archived"


def refused(reason: int) -> str:
    """The measure of readings refused for this RejectionReason number."""
    return f"refused:{reason}"


def dead(stage: str) -> str:
    """The measure of readings that this stage gave up on."""
    return f"dead:{stage}"


async def create(connection: AsyncConnection) -> None:
    """Makes the table unless it is there."""
    await connection.execute(text(_TABLE))


async def add(connection: AsyncConnection, counts: Mapping[tuple[str, int, str], int]) -> None:
    """Adds each count to its row (gateway_id, hour_us, measure), in this transaction. Rows are taken in the order of their
    keys, so that two writers never wait for each other in a circle. Zeroes make no rows."""
    keys = sorted(key for key, count in counts.items() if count)
    if not keys:
        return
    columns = {
        "gateways": [key[0] for key in keys],
        "hours": [key[1] for key in keys],
        "measures": [key[2] for key in keys],
        "counts": [counts[key] for key in keys],
    }
    await connection.execute(text(_ADD), columns)


_TABLE = """
CREATE TABLE IF NOT EXISTS ledger (
    gateway_id text COLLATE "C" NOT NULL, hour_us bigint NOT NULL, measure text NOT NULL, count bigint NOT NULL,
    PRIMARY KEY (gateway_id, hour_us, measure))
"""

_ADD = """
INSERT INTO ledger (gateway_id, hour_us, measure, count)
SELECT gateway_id, hour_us, measure, n
FROM unnest(CAST(:gateways AS text[]), CAST(:hours AS bigint[]), CAST(:measures AS text[]), CAST(:counts AS bigint[]))
    WITH ORDINALITY AS added (gateway_id, hour_us, measure, n, place)
ORDER BY place
ON CONFLICT (gateway_id, hour_us, measure) DO UPDATE SET count = ledger.count + excluded.count
"""
