"""The tables that a restore works with, in the schema `archive` of the catalog database: made anew by each, apart from losers."""

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, Table, Text
from sqlalchemy.ext.asyncio import AsyncEngine

from archive_svc import tables
from archive_svc.tables import row_columns

METADATA = MetaData(schema="archive")

# What the manifest of another deployment's archive says.
FOUND = Table("restore_found", METADATA, *row_columns())

# The compacted days of that archive (archive_svc/day_notes.py), and its attempts (of which nothing is used).
FOUND_DAYS = Table(
    "restore_days",
    METADATA,
    Column("stem", Text(collation="C"), primary_key=True),
    Column("log_id", Text(collation="C"), nullable=False),
    Column("is_done", Boolean, nullable=False),
    Column("object_count", BigInteger, nullable=False),
    Column("reading_count", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
)

# Up to which offsets the objects of chunks of a region and a day are replaced by its compacted ones.
FOUND_UNTIL = Table(
    "restore_until",
    METADATA,
    Column("log_id", Text(collation="C"), primary_key=True),
    Column("region", Text(collation="C"), primary_key=True),
    Column("day_us", BigInteger, primary_key=True, autoincrement=False),
    Column("topic", Text(collation="C"), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("until", BigInteger, nullable=False),
)

# Compactions that later ones have replaced.
FOUND_GONE = Table("restore_gone", METADATA, Column("stem", Text(collation="C"), primary_key=True))

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
    await tables.create_tables(engine, METADATA)
