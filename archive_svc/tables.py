"""The tables of the archive, in the schema `archive` of the catalog database."""

from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.shards import transaction

METADATA = MetaData(schema="archive")


def row_columns() -> list[Column[Any]]:
    """The columns of ManifestRow and the region of its path, for a table of rows by path."""
    return [
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
    ]


# A chunk of a partition whose objects are being put: cut before the first put, gone in the transaction that enters its objects.
# first_offset is the one behind the archive's position, source_offset that of the record at last_offset.
CHUNKS = Table(
    "chunks",
    METADATA,
    Column("log_id", Text(collation="C"), primary_key=True),
    Column("topic", Text(collation="C"), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("source_offset", BigInteger, nullable=False),
    Column("cut_us", BigInteger, nullable=False),
)

# The manifest: one row per object. Those of another deployment's archive that was restored keep their log's identity.
OBJECTS = Table("objects", METADATA, *row_columns(), Index("objects_by_time", "first_us", "last_us"))


async def create_tables(engine: AsyncEngine, metadata: MetaData = METADATA) -> None:
    """Makes what is missing. Safe to repeat and to run from several processes."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('archive.tables'))"))
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS archive"))
        await connection.run_sync(metadata.create_all)
