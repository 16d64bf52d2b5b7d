"""Catalog 2: what is fixed when a deployment is made. One that is older than this keeps its readings for ever."""

from sqlalchemy import Connection

from wq.migrations.statements import execute_all

revision = "c002"
down_revision = "c001"


def upgrade(connection: Connection) -> None:
    execute_all(connection, _DEPLOYMENT)


_DEPLOYMENT = """
CREATE TABLE IF NOT EXISTS deployment (
    keep_days int NOT NULL CHECK (keep_days >= 0), first_day date NOT NULL,
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one));
INSERT INTO deployment (keep_days, first_day) SELECT 0, current_date FROM catalog.version ON CONFLICT DO NOTHING;
"""
