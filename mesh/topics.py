"""Names of the Log's topics, and which partition a gateway's records go to."""

import zlib

ACCEPTED = "accepted"
BACKFILL = "backfill"
REFUSED = "refused"
SCREENED = "screened"
SCREENED_BACKFILL = "screened_backfill"
RESTORED = "restored"
DEAD = "dead"
CONTEXTS = "contexts"
SILENCE = "silence"

TOPICS = (ACCEPTED, BACKFILL, REFUSED, SCREENED, SCREENED_BACKFILL, RESTORED, DEAD, CONTEXTS, SILENCE)
SCREENED_FROM = {ACCEPTED: SCREENED, BACKFILL: SCREENED_BACKFILL}
SOURCE_OF = {screened: source for source, screened in SCREENED_FROM.items()}


def partition_of(region: str, gateway_id: str, partition_count: int) -> int:
    """The same for all records of one gateway in one region, so that they keep their order."""
    return zlib.crc32(f"{region}/{gateway_id}".encode()) % partition_count
