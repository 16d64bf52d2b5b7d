"""The tables of the catalog, in the schema `catalog` of the catalog database."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.shards import transaction

METADATA = MetaData(schema="catalog")

SITES = Table(
    "sites",
    METADATA,
    Column("site_id", Text(collation="C"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("source_type", SmallInteger, nullable=False),
    Column("latitude_deg", Double),
    Column("longitude_deg", Double),
    Column("time_zone", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default="1"),
)

SENSORS = Table(
    "sensors",
    METADATA,
    Column("sensor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("site_id", Text(collation="C"), ForeignKey(SITES.c.site_id)),
    Column("name", Text, nullable=False, server_default=""),
    # One bit per parameter: 1 << (number - 1).
    Column("parameters", Integer, nullable=False, server_default="0"),
    Column("expected_period_s", Double, nullable=False, server_default="0"),
    Column("installed_us", BigInteger),
    Column("calibrated_us", BigInteger),
    Column("state", SmallInteger, nullable=False, server_default="1"),
    Column("disinfectant", Text, nullable=False, server_default=""),
    Column("first_sight", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    Index("sensors_by_site", "site_id", "sensor_id", postgresql_where=text("site_id IS NOT NULL")),
    # What a context holds is found without reading the millions that nobody has described.
    Index("sensors_described", "sensor_id", postgresql_where=text("NOT first_sight")),
)

# First results of requests that carried an id.
REQUESTS = Table(
    "requests",
    METADATA,
    Column("request_id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("answered_us", BigInteger, nullable=False, index=True),
)

# One row: the newest version of the catalog, and the newest that is published.
VERSION = Table(
    "version",
    METADATA,
    Column("only_row", Boolean, CheckConstraint("only_row"), primary_key=True, server_default=text("true")),
    Column("newest", BigInteger, nullable=False),
    Column("published", BigInteger, nullable=False),
)


async def create_tables(engine: AsyncEngine) -> None:
    """Makes what is missing, and version 1 of an empty catalog. Safe to repeat and to run from several processes."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('catalog.tables'))"))
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS catalog"))
        await connection.run_sync(METADATA.create_all)
        await connection.execute(text("INSERT INTO catalog.version (newest, published) VALUES (1, 0) ON CONFLICT DO NOTHING"))
