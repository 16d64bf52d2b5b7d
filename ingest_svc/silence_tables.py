"""Where silence keeps who was heard and whose silence lasts: the schema `ingest` of the catalog database."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, LargeBinary, MetaData, Table, Text, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ingest_svc.silence_episodes import Changes, GatewayRow, SilentSensor
from mesh.codec.log_records import ContextChange, ContextKind
from mesh.shards import transaction

METADATA = MetaData(schema="ingest")

# The columns of its sensors are little-endian int64, as many in each: one row is written where each sensor had one otherwise.
GATEWAYS = Table(
    "silence_gateways",
    METADATA,
    Column("region", Text(collation="C"), primary_key=True),
    Column("gateway_id", Text(collation="C"), primary_key=True),
    Column("heard_us", BigInteger, nullable=False),
    Column("spoke_us", BigInteger, nullable=False),
    Column("began_us", BigInteger),
    Column("is_told", Boolean, nullable=False),
    Column("sensor_id", LargeBinary, nullable=False),
    Column("sensor_heard_us", LargeBinary, nullable=False),
    Column("sensor_spoke_us", LargeBinary, nullable=False),
)

# Episodes that last.
SENSORS = Table(
    "silence_sensors",
    METADATA,
    Column("sensor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("site_id", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("gateway_id", Text, nullable=False),
    Column("began_us", BigInteger, nullable=False),
    Column("is_told", Boolean, nullable=False),
)

# One row: the catalog context by which sensors are watched.
CATALOG = Table(
    "silence_catalog",
    METADATA,
    Column("only_row", Boolean, CheckConstraint("only_row"), primary_key=True, server_default=text("true")),
    Column("version", BigInteger, nullable=False),
    Column("object_path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
)


async def create_tables(engine: AsyncEngine) -> None:
    """Makes what is missing. Safe to repeat and to run from several processes."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('ingest.tables'))"))
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS ingest"))
        await connection.run_sync(METADATA.create_all)


async def read_catalog(connection: AsyncConnection) -> ContextChange | None:
    """The catalog context that was in force; None: none was ever seen."""
    row = (await connection.execute(select(CATALOG))).one_or_none()
    return None if row is None else ContextChange(ContextKind.CATALOG, row.version, row.object_path, row.sha256)


async def read_heard(connection: AsyncConnection) -> tuple[list[GatewayRow], list[SilentSensor]]:
    """Everything that was kept."""
    gateways = [
        GatewayRow(
            row.region, row.gateway_id, row.heard_us, row.spoke_us, row.began_us, row.is_told,
            *(np.frombuffer(column, "<i8") for column in (row.sensor_id, row.sensor_heard_us, row.sensor_spoke_us)),
        )
        for row in await connection.execute(select(GATEWAYS))
    ]  # fmt: skip
    sensors = [SilentSensor(**row._mapping) for row in await connection.execute(select(SENSORS))]
    return gateways, sensors


async def write_heard(connection: AsyncConnection, changes: Changes, catalog: ContextChange | None) -> None:
    """The changes, in this transaction; safe to repeat."""
    await _upsert(connection, GATEWAYS, [_gateway(row) for row in changes.gateways])
    if changes.forgotten:
        key = tuple_(GATEWAYS.c.region, GATEWAYS.c.gateway_id)
        await connection.execute(GATEWAYS.delete().where(key.in_(list(changes.forgotten))))
    await _upsert(connection, SENSORS, [_sensor(episode) for episode in changes.silent])
    if changes.ended:
        ended = text("DELETE FROM ingest.silence_sensors WHERE sensor_id = ANY(CAST(:sensors AS bigint[]))")
        await connection.execute(ended, {"sensors": list(changes.ended)})
    if catalog is not None:
        row = {"version": catalog.version, "object_path": catalog.object_path, "sha256": catalog.sha256}
        await _upsert(connection, CATALOG, [{"only_row": True, **row}])


async def _upsert(connection: AsyncConnection, table: Table, rows: Sequence[dict[str, object]]) -> None:
    if rows:
        wanted = insert(table)
        others = {column.name: wanted.excluded[column.name] for column in table.c if not column.primary_key}
        await connection.execute(wanted.on_conflict_do_update(index_elements=table.primary_key, set_=others), rows)


def _gateway(row: GatewayRow) -> dict[str, object]:
    columns = ("sensor_id", "sensor_heard_us", "sensor_spoke_us")
    plain = {name: getattr(row, name) for name in ("region", "gateway_id", "heard_us", "spoke_us", "began_us", "is_told")}
    return plain | {name: getattr(row, name).astype("<i8", copy=False).tobytes() for name in columns}


def _sensor(episode: SilentSensor) -> dict[str, object]:
    return {name: getattr(episode, name) for name in ("sensor_id", "site_id", "region", "gateway_id", "began_us", "is_told")}
