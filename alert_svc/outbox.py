"""The outbox: notices of changed alerts, written in the transaction of the change, and how far each channel is with each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.shards import transaction

METADATA = MetaData(schema="alert")

OUTBOX = Table(
    "outbox",
    METADATA,
    Column("notice_id", BigInteger, Identity(always=True), primary_key=True),
    Column("alert_id", BigInteger, nullable=False),
    Column("change", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # What a receiver knows a repeat by; unlike alert_id and change never the same in two deployments.
    Column("message_id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    # When it was handed to the channels; NULL: not yet.
    Column("opened_us", BigInteger),
    UniqueConstraint("alert_id", "change"),
    Index("outbox_unopened", "notice_id", postgresql_where=text("opened_us IS NULL")),
    Index("outbox_by_opened", "opened_us"),
)

# One notice on one channel. status: waiting, then delivered or given_up. A try that was begun and whose end is not recorded
# has a claim: `worker` names the process, `claim` its life; nobody else touches it before `claimed_until_us`.
DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("notice_id", BigInteger, ForeignKey(OUTBOX.c.notice_id, ondelete="CASCADE"), primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("alert_id", BigInteger, nullable=False),
    Column("change", Integer, nullable=False),
    Column("status", Text, nullable=False, server_default="waiting"),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("next_us", BigInteger, nullable=False),
    Column("worker", Text),
    Column("claim", Text),
    Column("claimed_until_us", BigInteger, nullable=False, server_default="0"),
    Column("ended_us", BigInteger),
    Column("problem", Text, nullable=False, server_default=""),
    Index("deliveries_due", "channel", "next_us", "notice_id", postgresql_where=text("status = 'waiting'")),
    Index("deliveries_in_order", "alert_id", "channel", "change", postgresql_where=text("status = 'waiting'")),
    Index("deliveries_claimed", "worker", postgresql_where=text("claim IS NOT NULL")),
)


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert as it is after one change of it. `change` counts the changes of that alert upwards; `body` is a serialized
    waterquality.v1.Alert whose last history entry is the change."""

    alert_id: int
    change: int
    body: bytes


async def add(connection: AsyncConnection, notices: Sequence[Notice]) -> None:
    """Puts them in, in the caller's transaction: they are sent once it is committed, and only then. Safe to repeat: a change of
    an alert is kept as it came first. The caller holds a lock on each alert until the commit, so that changes become visible
    in their order."""
    if notices:
        await connection.execute(text(ADD), columns(notices))


def columns(notices: Sequence[Notice]) -> dict[str, list[Any]]:
    """What ADD is given, so that it can be part of another statement."""
    return {
        "notice_alerts": [notice.alert_id for notice in notices],
        "notice_changes": [notice.change for notice in notices],
        "notice_bodies": [notice.body for notice in notices],
    }


async def create_outbox(engine: AsyncEngine) -> None:
    """Makes the tables that are missing. Safe to repeat and to run from several processes."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('alert.tables'))"))
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS alert"))
        await connection.run_sync(METADATA.create_all)


ADD = """
INSERT INTO alert.outbox (alert_id, change, body)
SELECT alert_id, change, body
FROM unnest(CAST(:notice_alerts AS bigint[]), CAST(:notice_changes AS int[]), CAST(:notice_bodies AS bytea[])) WITH ORDINALITY
    AS n (alert_id, change, body, place)
ORDER BY place
ON CONFLICT (alert_id, change) DO NOTHING
"""
