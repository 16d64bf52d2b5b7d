"""Catalog 1: the tables as they were before there were migrations. What was made before is adopted as it is."""

from sqlalchemy import Connection

from wq.migrations.statements import execute_all

revision = "c001"
down_revision = None


def upgrade(connection: Connection) -> None:
    for statements in (_SHARED, _QUERY, _CATALOG, _INGEST, _ALERT, _ARCHIVE):
        execute_all(connection, statements)
    if connection.exec_driver_sql("SELECT to_regclass('public.contamination_alerts') IS NULL").scalar_one():
        connection.exec_driver_sql(_ALERTS_VIEW)


_SHARED = """
CREATE TABLE IF NOT EXISTS positions (
    stage text NOT NULL, slot int NOT NULL, topic text NOT NULL, partition int NOT NULL, log_id text NOT NULL,
    "offset" bigint NOT NULL, source_offset bigint NOT NULL, PRIMARY KEY (stage, slot, topic, partition));
CREATE TABLE IF NOT EXISTS ledger (
    gateway_id text COLLATE "C" NOT NULL, hour_us bigint NOT NULL, measure text NOT NULL, count bigint NOT NULL,
    PRIMARY KEY (gateway_id, hour_us, measure));
CREATE TABLE IF NOT EXISTS stages (
    stage text NOT NULL, worker text NOT NULL, at_us bigint NOT NULL, handled_count bigint NOT NULL,
    rate_per_s double precision NOT NULL, problem text NOT NULL, next_offset jsonb NOT NULL, PRIMARY KEY (stage, worker));
CREATE TABLE IF NOT EXISTS shards (shard int PRIMARY KEY, address text NOT NULL UNIQUE, retired boolean NOT NULL DEFAULT false);
CREATE TABLE IF NOT EXISTS shard_map (slot int PRIMARY KEY, shard int NOT NULL REFERENCES shards);
CREATE TABLE IF NOT EXISTS shard_map_version (
    version bigint NOT NULL, only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one));
"""

_QUERY = """
CREATE TABLE IF NOT EXISTS dead_seen (
    stage text NOT NULL, topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL, appended_at_us bigint NOT NULL,
    PRIMARY KEY (stage, topic, partition, "offset"));
CREATE TABLE IF NOT EXISTS hour_fences (
    hour_us bigint PRIMARY KEY, ends jsonb, dead_ends jsonb, settled boolean NOT NULL DEFAULT false);
CREATE INDEX IF NOT EXISTS hour_fences_unsettled ON hour_fences (hour_us) WHERE NOT settled;
"""

_CATALOG = """
CREATE SCHEMA IF NOT EXISTS catalog;
CREATE TABLE IF NOT EXISTS catalog.requests (
    request_id text NOT NULL, digest text NOT NULL, answer text NOT NULL, answered_us bigint NOT NULL,
    PRIMARY KEY (request_id));
CREATE INDEX IF NOT EXISTS ix_catalog_requests_answered_us ON catalog.requests (answered_us);
CREATE TABLE IF NOT EXISTS catalog.sites (
    site_id text COLLATE "C" NOT NULL, name text NOT NULL, region text NOT NULL, source_type smallint NOT NULL,
    latitude_deg double precision, longitude_deg double precision, time_zone text NOT NULL,
    revision bigint DEFAULT '1' NOT NULL, PRIMARY KEY (site_id));
CREATE TABLE IF NOT EXISTS catalog.version (
    only_row boolean DEFAULT true NOT NULL CHECK (only_row), newest bigint NOT NULL, published bigint NOT NULL,
    PRIMARY KEY (only_row));
CREATE TABLE IF NOT EXISTS catalog.sensors (
    sensor_id bigint NOT NULL, site_id text COLLATE "C", name text DEFAULT '' NOT NULL, parameters integer DEFAULT '0' NOT NULL,
    expected_period_s double precision DEFAULT '0' NOT NULL, installed_us bigint, calibrated_us bigint,
    state smallint DEFAULT '1' NOT NULL, disinfectant text DEFAULT '' NOT NULL, first_sight boolean NOT NULL,
    revision bigint DEFAULT '1' NOT NULL, PRIMARY KEY (sensor_id), FOREIGN KEY (site_id) REFERENCES catalog.sites (site_id));
CREATE INDEX IF NOT EXISTS sensors_by_site ON catalog.sensors (site_id, sensor_id) WHERE site_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS sensors_described ON catalog.sensors (sensor_id) WHERE NOT first_sight;
"""

_INGEST = """
CREATE SCHEMA IF NOT EXISTS ingest;
CREATE TABLE IF NOT EXISTS ingest.silence_catalog (
    only_row boolean DEFAULT true NOT NULL CHECK (only_row), version bigint NOT NULL, object_path text NOT NULL,
    sha256 text NOT NULL, PRIMARY KEY (only_row));
CREATE TABLE IF NOT EXISTS ingest.silence_gateways (
    region text COLLATE "C" NOT NULL, gateway_id text COLLATE "C" NOT NULL, heard_us bigint NOT NULL,
    spoke_us bigint NOT NULL, began_us bigint, is_told boolean NOT NULL, sensor_id bytea NOT NULL,
    sensor_heard_us bytea NOT NULL, sensor_spoke_us bytea NOT NULL, PRIMARY KEY (region, gateway_id));
CREATE TABLE IF NOT EXISTS ingest.silence_sensors (
    sensor_id bigint NOT NULL, site_id text NOT NULL, region text NOT NULL, gateway_id text NOT NULL,
    began_us bigint NOT NULL, is_told boolean NOT NULL, PRIMARY KEY (sensor_id));
"""

_ALERT = """
CREATE SCHEMA IF NOT EXISTS alert;
CREATE TABLE IF NOT EXISTS alert.rules (
    rule_id text COLLATE "C" NOT NULL, parameter smallint NOT NULL, statistic smallint NOT NULL, lower_limit double precision,
    upper_limit double precision, deadband double precision NOT NULL, on_delay_s double precision NOT NULL,
    off_delay_s double precision NOT NULL, severity_level smallint NOT NULL, sensor_ids bigint[] NOT NULL,
    site_ids text[] NOT NULL, regions text[] NOT NULL, source_type smallint NOT NULL, citation text NOT NULL,
    disabled boolean NOT NULL, version bigint NOT NULL, effective_us bigint NOT NULL, PRIMARY KEY (rule_id));
CREATE TABLE IF NOT EXISTS alert.rules_version (
    only_row boolean DEFAULT true NOT NULL CHECK (only_row), newest bigint NOT NULL, published bigint NOT NULL,
    PRIMARY KEY (only_row));
CREATE TABLE IF NOT EXISTS alert.contamination_alerts (
    alert_id bigint GENERATED BY DEFAULT AS IDENTITY, sensor_id bigint NOT NULL, timestamp timestamptz NOT NULL,
    contaminant_type text NOT NULL, severity_level smallint NOT NULL,
    resolved boolean GENERATED ALWAYS AS (state = 7) STORED NOT NULL, state smallint NOT NULL, kind smallint NOT NULL,
    rule_id text NOT NULL, condition_id text COLLATE "C" NOT NULL, site_id text NOT NULL, region text NOT NULL,
    gateway_id text NOT NULL, last_seen timestamptz NOT NULL, cleared timestamptz, committed timestamptz NOT NULL,
    historical boolean NOT NULL, evidence jsonb NOT NULL, change integer NOT NULL, newest_us bigint NOT NULL,
    strength jsonb NOT NULL, written_by xid8 NOT NULL, PRIMARY KEY (alert_id));
CREATE INDEX IF NOT EXISTS alerts_by_time ON alert.contamination_alerts (timestamp, alert_id);
CREATE INDEX IF NOT EXISTS alerts_by_writer ON alert.contamination_alerts (written_by, alert_id);
CREATE INDEX IF NOT EXISTS alerts_of_rule ON alert.contamination_alerts (rule_id, alert_id)
    WHERE cleared IS NULL AND NOT historical;
CREATE INDEX IF NOT EXISTS alerts_of_sensor ON alert.contamination_alerts (sensor_id, timestamp, alert_id);
CREATE INDEX IF NOT EXISTS alerts_open ON alert.contamination_alerts (alert_id) WHERE state <> 7;
CREATE UNIQUE INDEX IF NOT EXISTS one_open_alert ON alert.contamination_alerts (condition_id)
    WHERE state <> 7 AND NOT historical;
CREATE TABLE IF NOT EXISTS alert.dropped_tasks (
    rule_id text COLLATE "C" NOT NULL, count bigint NOT NULL, PRIMARY KEY (rule_id));
CREATE TABLE IF NOT EXISTS alert.alert_events (
    event_id bigint GENERATED ALWAYS AS IDENTITY, alert_id bigint NOT NULL, change integer NOT NULL,
    time timestamptz NOT NULL, actor text NOT NULL, from_state smallint NOT NULL, to_state smallint NOT NULL,
    comment text NOT NULL, PRIMARY KEY (event_id), FOREIGN KEY (alert_id) REFERENCES alert.contamination_alerts (alert_id));
CREATE INDEX IF NOT EXISTS events_of_alert ON alert.alert_events (alert_id, event_id);
CREATE TABLE IF NOT EXISTS alert.episodes (
    condition_id text COLLATE "C" NOT NULL, began_us bigint NOT NULL, ended_us bigint, historical boolean NOT NULL,
    alert_id bigint NOT NULL, facts jsonb NOT NULL, PRIMARY KEY (condition_id, began_us),
    FOREIGN KEY (alert_id) REFERENCES alert.contamination_alerts (alert_id));
CREATE INDEX IF NOT EXISTS episodes_live ON alert.episodes (condition_id, began_us) WHERE NOT historical;
CREATE INDEX IF NOT EXISTS ix_alert_episodes_alert_id ON alert.episodes (alert_id);
CREATE TABLE IF NOT EXISTS alert.outbox (
    notice_id bigint GENERATED ALWAYS AS IDENTITY, alert_id bigint NOT NULL, change integer NOT NULL, body bytea NOT NULL,
    message_id uuid DEFAULT gen_random_uuid() NOT NULL, opened_us bigint, PRIMARY KEY (notice_id), UNIQUE (alert_id, change));
CREATE INDEX IF NOT EXISTS outbox_by_opened ON alert.outbox (opened_us);
CREATE INDEX IF NOT EXISTS outbox_unopened ON alert.outbox (notice_id) WHERE opened_us IS NULL;
CREATE TABLE IF NOT EXISTS alert.deliveries (
    notice_id bigint NOT NULL, channel text NOT NULL, alert_id bigint NOT NULL, change integer NOT NULL,
    status text DEFAULT 'waiting' NOT NULL, tries integer DEFAULT '0' NOT NULL, next_us bigint NOT NULL, worker text,
    claim text, claimed_until_us bigint DEFAULT '0' NOT NULL, ended_us bigint, problem text DEFAULT '' NOT NULL,
    PRIMARY KEY (notice_id, channel), FOREIGN KEY (notice_id) REFERENCES alert.outbox (notice_id) ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS deliveries_claimed ON alert.deliveries (worker) WHERE claim IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_due ON alert.deliveries (channel, next_us, notice_id) WHERE status = 'waiting';
CREATE INDEX IF NOT EXISTS deliveries_in_order ON alert.deliveries (alert_id, channel, change) WHERE status = 'waiting';
"""

_ARCHIVE = """
CREATE SCHEMA IF NOT EXISTS archive;
CREATE TABLE IF NOT EXISTS archive.chunks (
    log_id text COLLATE "C" NOT NULL, topic text COLLATE "C" NOT NULL, partition integer NOT NULL,
    first_offset bigint NOT NULL, last_offset bigint NOT NULL, source_offset bigint NOT NULL, cut_us bigint NOT NULL,
    PRIMARY KEY (log_id, topic, partition));
CREATE TABLE IF NOT EXISTS archive.objects (
    path text COLLATE "C" NOT NULL, region text COLLATE "C" NOT NULL, reading_count bigint NOT NULL,
    size_bytes bigint NOT NULL, sha256 text NOT NULL, first_us bigint NOT NULL, last_us bigint NOT NULL,
    log_id text COLLATE "C" NOT NULL, topic text COLLATE "C" NOT NULL, partition integer NOT NULL,
    first_offset bigint NOT NULL, last_offset bigint NOT NULL, stored_us bigint NOT NULL, PRIMARY KEY (path));
CREATE INDEX IF NOT EXISTS objects_by_time ON archive.objects (first_us, last_us);
CREATE TABLE IF NOT EXISTS archive.losers (
    log_id text COLLATE "C" NOT NULL, topic text COLLATE "C" NOT NULL, partition integer NOT NULL, "offset" bigint NOT NULL,
    index integer NOT NULL, PRIMARY KEY (log_id, topic, partition, "offset", index));
CREATE TABLE IF NOT EXISTS archive.losers_read (
    path text COLLATE "C" NOT NULL, PRIMARY KEY (path));
CREATE TABLE IF NOT EXISTS archive.restore_found (
    path text COLLATE "C" NOT NULL, region text COLLATE "C" NOT NULL, reading_count bigint NOT NULL,
    size_bytes bigint NOT NULL, sha256 text NOT NULL, first_us bigint NOT NULL, last_us bigint NOT NULL,
    log_id text COLLATE "C" NOT NULL, topic text COLLATE "C" NOT NULL, partition integer NOT NULL,
    first_offset bigint NOT NULL, last_offset bigint NOT NULL, stored_us bigint NOT NULL, PRIMARY KEY (path));
CREATE TABLE IF NOT EXISTS archive.restore_plan (
    place bigint NOT NULL, path text COLLATE "C" NOT NULL, PRIMARY KEY (place));
"""

_ALERTS_VIEW = """
CREATE VIEW public.contamination_alerts AS SELECT alert_id, sensor_id, timestamp, contaminant_type, severity_level, resolved,
    state, kind, rule_id, condition_id, site_id, region, gateway_id, last_seen, cleared, committed, historical, evidence
FROM alert.contamination_alerts
"""
