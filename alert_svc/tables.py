"""The tables of alerts, in the schema `alert` of the catalog database, and the view that partners read."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.types import UserDefinedType

from mesh.shards import transaction

METADATA = MetaData(schema="alert")
_TIME = DateTime(timezone=True)


class _Xid8(UserDefinedType[str]):
    """A transaction's number, which SQLAlchemy does not know."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


# Public: partners have SQL on it. `timestamp`: measured time at which the condition began. `change`: counts the changes of this
# alert. `newest_us`: when the newest of its episodes began. `strength`: how strong the task is that the alert tells of.
# `written_by`: the transaction that wrote the row last, by which watchers find what changed (alert_svc/changes.py).
ALERTS = Table(
    "contamination_alerts",
    METADATA,
    Column("alert_id", BigInteger, Identity(), primary_key=True),
    Column("sensor_id", BigInteger, nullable=False),
    Column("timestamp", _TIME, nullable=False),
    Column("contaminant_type", Text, nullable=False),
    Column("severity_level", SmallInteger, nullable=False),
    Column("resolved", Boolean, Computed("state = 7", persisted=True), nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("rule_id", Text, nullable=False),
    Column("condition_id", Text(collation="C"), nullable=False),
    Column("site_id", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("gateway_id", Text, nullable=False),
    Column("last_seen", _TIME, nullable=False),
    Column("cleared", _TIME),
    Column("committed", _TIME, nullable=False),
    Column("historical", Boolean, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("change", Integer, nullable=False),
    Column("newest_us", BigInteger, nullable=False),
    Column("strength", JSONB, nullable=False),
    Column("written_by", _Xid8, nullable=False),
    Index("one_open_alert", "condition_id", unique=True, postgresql_where=text("state <> 7 AND NOT historical")),
    Index("alerts_by_writer", "written_by", "alert_id"),
    Index("alerts_by_time", "timestamp", "alert_id"),
    Index("alerts_open", "alert_id", postgresql_where=text("state <> 7")),
    Index("alerts_of_sensor", "sensor_id", "timestamp", "alert_id"),
    Index("alerts_of_rule", "rule_id", "alert_id", postgresql_where=text("cleared IS NULL AND NOT historical")),
)

# Every episode once. `ended_us`: NULL while it lasts, or where a newer one came before its end was told.
EPISODES = Table(
    "episodes",
    METADATA,
    Column("condition_id", Text(collation="C"), primary_key=True),
    Column("began_us", BigInteger, primary_key=True, autoincrement=False),
    Column("ended_us", BigInteger),
    Column("historical", Boolean, nullable=False),
    Column("alert_id", BigInteger, ForeignKey(ALERTS.c.alert_id), nullable=False, index=True),
    Column("facts", JSONB, nullable=False),
    Index("episodes_live", "condition_id", "began_us", postgresql_where=text("NOT historical")),
)

# What happened to each alert. `change`: the alert's, at which it happened.
EVENTS = Table(
    "alert_events",
    METADATA,
    Column("event_id", BigInteger, Identity(always=True), primary_key=True),
    Column("alert_id", BigInteger, ForeignKey(ALERTS.c.alert_id), nullable=False),
    Column("change", Integer, nullable=False),
    Column("time", _TIME, nullable=False),
    Column("actor", Text, nullable=False),
    Column("from_state", SmallInteger, nullable=False),
    Column("to_state", SmallInteger, nullable=False),
    Column("comment", Text, nullable=False),
    Index("events_of_alert", "alert_id", "event_id"),
)

# Tasks that were dropped because their rule is gone or disabled. A task that comes again is counted again.
DROPPED = Table(
    "dropped_tasks",
    METADATA,
    Column("rule_id", Text(collation="C"), primary_key=True),
    Column("count", BigInteger, nullable=False),
)


async def create_tables(engine: AsyncEngine) -> None:
    """Makes what is missing. Safe to repeat and to run from several processes."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('alert.tables'))"))
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS alert"))
        await connection.run_sync(METADATA.create_all)
        if (await connection.execute(text(_NO_VIEW))).scalar_one():
            await connection.execute(text(_VIEW))


# Looked for first: to replace a view needs a lock for which every reader of it would wait.
_NO_VIEW = "SELECT to_regclass('public.contamination_alerts') IS NULL"
_VIEW = """
CREATE VIEW public.contamination_alerts AS SELECT alert_id, sensor_id, timestamp, contaminant_type, severity_level, resolved,
    state, kind, rule_id, condition_id, site_id, region, gateway_id, last_seen, cleared, committed, historical, evidence
FROM alert.contamination_alerts
"""
