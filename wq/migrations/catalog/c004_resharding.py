"""Catalog 4: what `wq reshard` has planned, how far each move has come, and what shards counted that have left."""

from sqlalchemy import Connection

from wq.migrations.statements import execute_all

revision = "c004"
down_revision = "c003"


def upgrade(connection: Connection) -> None:
    execute_all(connection, _JOURNAL)


_JOURNAL = """
CREATE TABLE IF NOT EXISTS reshardings (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, wanted int NOT NULL, added int[] NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz, aborted boolean NOT NULL DEFAULT false);
CREATE UNIQUE INDEX IF NOT EXISTS reshardings_one_open ON reshardings ((true)) WHERE ended_at IS NULL;
CREATE TABLE IF NOT EXISTS slot_moves (
    number bigint NOT NULL REFERENCES reshardings, place int NOT NULL,
    slot int NOT NULL, source int NOT NULL, target int NOT NULL,
    step text NOT NULL, mark xid8 NOT NULL, row_count bigint NOT NULL, checksum text NOT NULL, copied_bytes bigint NOT NULL,
    freeze_us bigint NOT NULL, cut_us bigint NOT NULL, changed_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (number, slot));
CREATE TABLE IF NOT EXISTS shard_retirements (
    number bigint NOT NULL REFERENCES reshardings, shard int NOT NULL, step text NOT NULL, PRIMARY KEY (number, shard));
CREATE TABLE IF NOT EXISTS restored_objects (path text COLLATE "C" PRIMARY KEY, stored bigint NOT NULL, known bigint NOT NULL);
"""
