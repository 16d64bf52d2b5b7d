"""Catalog 3: which objects of the archive were read back, and which days of it are compacted."""

from sqlalchemy import Connection

from wq.migrations.statements import execute_all

revision = "c003"
down_revision = "c002"


def upgrade(connection: Connection) -> None:
    execute_all(connection, _CHUNKS_AND_OBJECTS)
    execute_all(connection, _COMPACTION)
    execute_all(connection, _RESTORE)


_CHUNKS_AND_OBJECTS = """
ALTER TABLE archive.chunks ADD COLUMN IF NOT EXISTS by_json boolean NOT NULL DEFAULT false;
ALTER TABLE archive.objects ADD COLUMN IF NOT EXISTS verified_us bigint;
CREATE INDEX IF NOT EXISTS objects_unverified ON archive.objects (first_us) WHERE verified_us IS NULL;
CREATE INDEX IF NOT EXISTS objects_of_chunks ON archive.objects (first_us) WHERE topic <> 'compacted';
"""

_COMPACTION = """
CREATE TABLE IF NOT EXISTS archive.replaced (
    path text COLLATE "C" NOT NULL, region text COLLATE "C" NOT NULL, reading_count bigint NOT NULL, size_bytes bigint NOT NULL,
    sha256 text NOT NULL, first_us bigint NOT NULL, last_us bigint NOT NULL, log_id text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL, partition integer NOT NULL, first_offset bigint NOT NULL, last_offset bigint NOT NULL,
    stored_us bigint NOT NULL, stem text COLLATE "C" NOT NULL, PRIMARY KEY (path));
CREATE INDEX IF NOT EXISTS ix_archive_replaced_stem ON archive.replaced (stem);
CREATE TABLE IF NOT EXISTS archive.compactions (
    stem text COLLATE "C" NOT NULL, log_id text COLLATE "C" NOT NULL, begun_us bigint NOT NULL, PRIMARY KEY (stem));
CREATE TABLE IF NOT EXISTS archive.days (
    stem text COLLATE "C" NOT NULL, log_id text COLLATE "C" NOT NULL, region text COLLATE "C" NOT NULL, day_us bigint NOT NULL,
    note text NOT NULL, compacted_us bigint NOT NULL, is_told boolean DEFAULT false NOT NULL,
    is_swept boolean DEFAULT false NOT NULL, replaced_by text COLLATE "C", PRIMARY KEY (stem));
CREATE INDEX IF NOT EXISTS ix_archive_days_replaced_by ON archive.days (replaced_by);
CREATE INDEX IF NOT EXISTS days_by_day ON archive.days (log_id, region, day_us);
CREATE INDEX IF NOT EXISTS days_unswept ON archive.days (compacted_us) WHERE NOT is_swept;
"""

_RESTORE = """
CREATE TABLE IF NOT EXISTS archive.restore_days (
    stem text COLLATE "C" NOT NULL, log_id text COLLATE "C" NOT NULL, is_done boolean NOT NULL, object_count bigint NOT NULL,
    reading_count bigint NOT NULL, note text NOT NULL, PRIMARY KEY (stem));
CREATE TABLE IF NOT EXISTS archive.restore_until (
    log_id text COLLATE "C" NOT NULL, region text COLLATE "C" NOT NULL, day_us bigint NOT NULL, topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL, until bigint NOT NULL, PRIMARY KEY (log_id, region, day_us, topic, partition));
CREATE TABLE IF NOT EXISTS archive.restore_gone (stem text COLLATE "C" NOT NULL, PRIMARY KEY (stem));
"""
