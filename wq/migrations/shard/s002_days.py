"""Shard 2: days whose leaves stand alone until the archive is sure of all that is in them."""

from sqlalchemy import Connection

from wq.migrations.statements import execute_all

revision = "s002"
down_revision = "s001"


def upgrade(connection: Connection) -> None:
    execute_all(connection, _DAYS_LEAVING)


_DAYS_LEAVING = """
CREATE TABLE IF NOT EXISTS days_leaving (slot int NOT NULL, day date NOT NULL, passed jsonb NOT NULL, PRIMARY KEY (slot, day));
"""
