"""Shard 1: the tables as they were before there were migrations. What was made before is adopted as it is, and a shard that never
said which slots it has has those whose tables it has."""

from sqlalchemy import Connection

from wq.migrations.statements import execute_all

revision = "s001"
down_revision = None


def upgrade(connection: Connection) -> None:
    execute_all(connection, _READINGS)
    if connection.exec_driver_sql(_NOT_NUMBERED).scalar_one():
        connection.exec_driver_sql(_NUMBER_CONFLICTS)
    execute_all(connection, _REST)
    if connection.exec_driver_sql("SELECT to_regclass('owned_slots') IS NULL").scalar_one():
        execute_all(connection, _OWNED_SLOTS)


_READINGS = """
CREATE TABLE IF NOT EXISTS sensor_readings (
    sensor_id bigint NOT NULL, timestamp timestamptz NOT NULL,
    ph_level real, turbidity real, temperature real, dissolved_oxygen real, conductivity real, disinfectant real,
    redox real, flow real,
    region varchar(20) NOT NULL, flags bigint NOT NULL, PRIMARY KEY (sensor_id, timestamp)) PARTITION BY HASH (sensor_id);
CREATE INDEX IF NOT EXISTS sensor_readings_by_time ON sensor_readings USING brin (timestamp);
CREATE TABLE IF NOT EXISTS sensors_seen (
    sensor_id bigint NOT NULL, region varchar(20) NOT NULL, first_time timestamptz NOT NULL, PRIMARY KEY (sensor_id, region));
CREATE INDEX IF NOT EXISTS sensors_seen_by_region ON sensors_seen (region, sensor_id);
CREATE TABLE IF NOT EXISTS conflicting_readings (
    sensor_id bigint NOT NULL, timestamp timestamptz NOT NULL,
    ph_level real, turbidity real, temperature real, dissolved_oxygen real, conductivity real, disinfectant real,
    redox real, flow real,
    region varchar(20) NOT NULL, flags bigint NOT NULL,
    log_id text NOT NULL, topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL, index int NOT NULL,
    PRIMARY KEY (sensor_id, timestamp, log_id, topic, partition, "offset", index));
"""

_NOT_NUMBERED = """
SELECT NOT EXISTS (
    SELECT 1 FROM pg_attribute WHERE attrelid = 'conflicting_readings'::regclass AND attname = 'written_by' AND NOT attisdropped)
"""

_NUMBER_CONFLICTS = """
ALTER TABLE conflicting_readings ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY,
                                 ADD COLUMN written_by xid8 NOT NULL DEFAULT pg_current_xact_id()
"""

_REST = """
CREATE INDEX IF NOT EXISTS conflicting_readings_in_order ON conflicting_readings (written_by, id);
CREATE TABLE IF NOT EXISTS conflicts_exported (
    log_id text PRIMARY KEY, count bigint NOT NULL DEFAULT 0, written_by xid8 NOT NULL DEFAULT '0', id bigint NOT NULL DEFAULT 0,
    cut_by xid8, cut_id bigint);
CREATE TABLE IF NOT EXISTS restored_objects (path text COLLATE "C" PRIMARY KEY, stored bigint NOT NULL, known bigint NOT NULL);
CREATE TABLE IF NOT EXISTS positions (
    stage text NOT NULL, slot int NOT NULL, topic text NOT NULL, partition int NOT NULL, log_id text NOT NULL,
    "offset" bigint NOT NULL, source_offset bigint NOT NULL, PRIMARY KEY (stage, slot, topic, partition));
CREATE TABLE IF NOT EXISTS ledger (
    gateway_id text COLLATE "C" NOT NULL, hour_us bigint NOT NULL, measure text NOT NULL, count bigint NOT NULL,
    PRIMARY KEY (gateway_id, hour_us, measure));
"""

_OWNED_SLOTS = r"""
CREATE TABLE owned_slots (slot int PRIMARY KEY, writable boolean NOT NULL DEFAULT true);
INSERT INTO owned_slots (slot)
SELECT CAST(substring(slot.relname FROM '_s(\d+)$') AS int)
FROM pg_inherits i JOIN pg_class slot ON slot.oid = i.inhrelid WHERE i.inhparent = CAST('sensor_readings' AS regclass);
"""
