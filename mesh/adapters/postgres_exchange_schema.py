"""The tables of the embedded Exchange, and how they come to be."""

from mesh.adapters.postgres_connections import Connections

# `holder`: the number of the taker that has the task; its session holds the lock of that number for as long as it lives.
# `attempt`: how often it was retried; `deaths`: how many takers went away without a word while they had it.
# `medium_tasks` is lost with a crash of the database, as its readers' queues would be.
_CREATE = """
DO $$ BEGIN
PERFORM pg_advisory_xact_lock(6278470102);
CREATE SCHEMA IF NOT EXISTS exchange;
CREATE SEQUENCE IF NOT EXISTS exchange.taker_ids;
CREATE TABLE IF NOT EXISTS exchange.tasks (
    task_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, priority smallint NOT NULL, severity smallint NOT NULL,
    attempt integer NOT NULL DEFAULT 0, not_before_us bigint NOT NULL DEFAULT 0, holder bigint, body bytea NOT NULL);
IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('exchange.tasks') AND attname = 'deaths') THEN
    ALTER TABLE exchange.tasks ADD COLUMN deaths integer NOT NULL DEFAULT 0;
END IF;
CREATE INDEX IF NOT EXISTS tasks_waiting ON exchange.tasks (priority, severity DESC, task_id) WHERE holder IS NULL;
CREATE INDEX IF NOT EXISTS tasks_held ON exchange.tasks (holder) WHERE holder IS NOT NULL;
CREATE TABLE IF NOT EXISTS exchange.dead_tasks (
    dead_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, task_id bigint NOT NULL, priority smallint NOT NULL,
    severity smallint NOT NULL, attempt integer NOT NULL, buried_at_us bigint NOT NULL, problem text NOT NULL,
    body bytea NOT NULL);
CREATE TABLE IF NOT EXISTS exchange.medium_end (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), last_id bigint NOT NULL);
INSERT INTO exchange.medium_end (last_id) VALUES (0) ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE IF NOT EXISTS exchange.medium_tasks (medium_id bigint PRIMARY KEY, body bytea NOT NULL);
END $$
"""


async def make_exchange(database: Connections) -> None:
    """The exchange is there on return; safe to repeat, and by several at once."""
    await database.fetch(_CREATE)
