"""The tables of the embedded Log, and how they come to be."""

from uuid import uuid4

from mesh.adapters.postgres_connections import Connections
from mesh.errors import SetupError
from mesh.topics import TOPICS

# One statement, so one transaction; the lock keeps two processes that start at once from making it twice.
_CREATE = """
DO $$ BEGIN
PERFORM pg_advisory_xact_lock(6278470101);
CREATE SCHEMA IF NOT EXISTS log;
CREATE TABLE IF NOT EXISTS log.identity (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), log_id text NOT NULL, partition_count integer NOT NULL);
CREATE TABLE IF NOT EXISTS log.partitions (
    topic text, number integer, first_offset bigint NOT NULL DEFAULT 0, next_offset bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, number)) WITH (fillfactor = 20);
CREATE TABLE IF NOT EXISTS log.records (
    topic text, number integer, "offset" bigint, appended_at_us bigint NOT NULL, headers text NOT NULL, value bytea NOT NULL,
    PRIMARY KEY (topic, number, "offset"));
ALTER TABLE log.records ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE SEQUENCE IF NOT EXISTS log.member_ids;
CREATE TABLE IF NOT EXISTS log.members (
    member_id bigint PRIMARY KEY, group_name text NOT NULL, topics text[] NOT NULL);
CREATE INDEX IF NOT EXISTS members_of_group ON log.members (group_name);
END $$
"""
_IDENTIFY = "INSERT INTO log.identity (log_id, partition_count) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_ADD_PARTITIONS = """
INSERT INTO log.partitions (topic, number)
SELECT topic, number FROM unnest(%s::text[]) AS topic, generate_series(0, %s - 1) AS number
ON CONFLICT DO NOTHING
"""


async def make_log(database: Connections, partition_count: int) -> str:
    """The log is there, with all topics; returns its identity. Safe to repeat, and by several at once. Raises SetupError when
    it was made with another number of partitions."""
    await database.fetch(_CREATE)
    await database.fetch(_IDENTIFY, (str(uuid4()), partition_count))
    ((log_id, made_with),) = await database.fetch("SELECT log_id, partition_count FROM log.identity")
    if made_with != partition_count:
        raise SetupError(
            f"this log was made with {made_with} partitions, not {partition_count}: set the partition count back to {made_with},"
            " or start with a new data directory"
        )
    await database.fetch(_ADD_PARTITIONS, (list(TOPICS), partition_count))
    return str(log_id)
