"""The tables of the archive, in the schema `archive` of the catalog database."""

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.shards import transaction

METADATA = MetaData(schema="archive")
COMPACTED = "compacted"
"""What stands for the topic in rows of objects whose readings come from several partitions: those of a compacted day."""


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
    Column("by_json", Boolean, nullable=False, server_default=text("false")),
)

# The manifest: one row per object. Those of another deployment's archive that was restored keep their log's identity.
# verified_us: when it was read back and held what was put; NULL: not yet.
OBJECTS = Table(
    "objects",
    METADATA,
    *row_columns(),
    Column("verified_us", BigInteger),
    Index("objects_by_time", "first_us", "last_us"),
    Index("objects_unverified", "first_us", postgresql_where=text("verified_us IS NULL")),
    Index("objects_of_chunks", "first_us", postgresql_where=text(f"topic <> '{COMPACTED}'")),
)

# Objects that stand in the manifest no more, because those of `stem` stand in their place; they are deleted some time later.
REPLACED = Table("replaced", METADATA, *row_columns(), Column("stem", Text(collation="C"), nullable=False, index=True))

# Attempts to compact a day that are not committed: objects whose paths begin with `stem` may be there.
COMPACTIONS = Table(
    "compactions",
    METADATA,
    Column("stem", Text(collation="C"), primary_key=True),
    Column("log_id", Text(collation="C"), nullable=False),
    Column("begun_us", BigInteger, nullable=False),
)

# Days that are compacted: `note` is what lies beside the manifest records, once `is_told`; replaced_by: by a later compaction.
DAYS = Table(
    "days",
    METADATA,
    Column("stem", Text(collation="C"), primary_key=True),
    Column("log_id", Text(collation="C"), nullable=False),
    Column("region", Text(collation="C"), nullable=False),
    Column("day_us", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    Column("compacted_us", BigInteger, nullable=False),
    Column("is_told", Boolean, nullable=False, server_default=text("false")),
    Column("is_swept", Boolean, nullable=False, server_default=text("false")),
    Column("replaced_by", Text(collation="C"), index=True),
    Index("days_by_day", "log_id", "region", "day_us"),
    Index("days_unswept", "compacted_us", postgresql_where=text("NOT is_swept")),
)


async def create_tables(engine: AsyncEngine, metadata: MetaData = METADATA) -> None:
    """Makes what is missing. Safe to repeat and to run from several processes."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('archive.tables'))"))
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS archive"))
        for table, columns in _LATER.items():
            if (await connection.execute(text(_LACKS), {"table": f"archive.{table}", "count": len(columns)})).scalar_one():
                added = ", ".join(f"ADD COLUMN IF NOT EXISTS {column}" for column in columns)
                await connection.execute(text(f"ALTER TABLE archive.{table} {added}"))
        await connection.run_sync(metadata.create_all)
        if metadata is METADATA:  # of tables that were there, whose indexes `create_all` does not make
            for index in sorted(OBJECTS.indexes, key=lambda index: str(index.name)):
                await connection.run_sync(index.create, checkfirst=True)


# Columns that deployments made before they were thought of do not have. Asked first: the change waits for every reader.
_LATER = {
    "chunks": ("by_json boolean NOT NULL DEFAULT false",),
    "objects": ("verified_us bigint",),
}

_LACKS = """
SELECT to_regclass(:table) IS NOT NULL AND (
    SELECT count(*) FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND attname IN ('by_json', 'verified_us') AND NOT attisdropped) < :count
"""
