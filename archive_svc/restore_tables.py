"""The tables that a restore works with, in the schema `archive` of the catalog database: made anew by each, apart from losers."""

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.shards import transaction

METADATA = MetaData(schema="archive")

# What the manifest of another deployment's archive says: the columns of ManifestRow, and the region of its path.
FOUND = Table(
    "restore_found",
    METADATA,
    Column("path", Text(collation="C"), primary_key=True),
    Column("region", Text(collation="C"), nullable=False),
    Column("reading_count", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("first_us", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    Column("log_id", Text(collation="C"), nullable=False),
    Column("topic", Text(collation="C"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("stored_us", BigInteger, nullable=False),
)

# The objects of the restore that runs, in its order.
PLAN = Table(
    "restore_plan",
    METADATA,
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("path", Text(collation="C"), nullable=False),
)

# Places in the logs of readings that lost (law 5), as the objects beside the manifest tell; they never change.
LOSERS = Table(
    "losers",
    METADATA,
    Column("log_id", Text(collation="C"), primary_key=True),
    Column("topic", Text(collation="C"), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
)

# Which of those objects were read.
LOSERS_READ = Table("losers_read", METADATA, Column("path", Text(collation="C"), primary_key=True))


async def create_tables(engine: AsyncEngine) -> None:
    """Makes what is missing. Safe to repeat and to run from several processes."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('archive.tables'))"))
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS archive"))
        await connection.run_sync(METADATA.create_all)
