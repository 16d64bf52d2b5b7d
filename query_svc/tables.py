"""The tables of a shard and of the catalog database that query_svc owns. The names of sensor_readings are public: partners
have SQL on them."""

import re
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh import ledger, positions, shard_map
from mesh.errors import SetupError
from mesh.shards import transaction
from query_svc.days_leaves import DaySpan, create_slot
from water.parameter import PARAMETERS

VALUE_COLUMNS = tuple(parameter.sql_column for parameter in PARAMETERS)
REGION_LENGTH = 20


async def create_shard_tables(engine: AsyncEngine, slots: int, owned_slots: Sequence[int], days: DaySpan | None = None) -> None:
    """Makes what is missing in a shard: the public tables, one table `sensor_readings_s<slot>` for each owned slot and no
    other (with leaves for `days`: see days_leaves.py), positions and ledger. Safe to repeat and to run from several processes.
    Raises SetupError when the shard was made with another number of slots. A deployment makes its tables by migrations instead
    (wq/migrations): a change here needs a revision there."""
    async with transaction(engine) as connection:
        await _alone(connection)
        for statement in (_SENSOR_READINGS, _BY_TIME, _SENSORS_SEEN, _BY_REGION, _CONFLICTING_READINGS):
            await connection.execute(text(statement))
        await _number_conflicts(connection)
        for statement in (_CONFLICTS_IN_ORDER, _CONFLICTS_EXPORTED, _RESTORED_OBJECTS, _DAYS_LEAVING):
            await connection.execute(text(statement))
        await _check_slots(connection, slots)
        for slot in sorted(owned_slots):
            await create_slot(connection, slots, slot, days)
        await shard_map.create_owned(connection, owned_slots)
        await positions.create(connection)
        await ledger.create(connection)


async def create_catalog_tables(engine: AsyncEngine) -> None:
    """Makes what is missing in the catalog database: positions, ledger and more. Safe to repeat and to
    run from several processes."""
    async with transaction(engine) as connection:
        await _alone(connection)
        await shard_map.create_map(connection)
        await positions.create(connection)
        await ledger.create(connection)
        for statement in (_DEAD_SEEN, _HOUR_FENCES, _UNSETTLED, _DEPLOYMENT):
            await connection.execute(text(statement))


async def _alone(connection: AsyncConnection) -> None:
    """Two processes that start at once: CREATE IF NOT EXISTS alone does not keep them apart."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('query_svc.tables'))"))


async def _number_conflicts(connection: AsyncConnection) -> None:
    """Shards that were made before conflicting readings were exported do not have the columns yet. Asked first: the change takes
    a lock that waits for every recorder."""
    if (await connection.execute(text(_NOT_NUMBERED))).scalar_one():
        await connection.execute(text(_NUMBER_CONFLICTS))


async def _check_slots(connection: AsyncConnection, slots: int) -> None:
    bounds = await connection.execute(text(_BOUNDS))
    for (bound,) in bounds:
        found = re.search(r"modulus (\d+)", bound)
        if found and int(found[1]) != slots:
            message = f"slots = {slots}, but this shard was made with {found[1]}: set slots = {found[1]}, or restore elsewhere"
            raise SetupError(message)


_VALUES = ", ".join(f"{column} real" for column in VALUE_COLUMNS)

_SENSOR_READINGS = f"""
CREATE TABLE IF NOT EXISTS sensor_readings (
    sensor_id bigint NOT NULL, timestamp timestamptz NOT NULL, {_VALUES},
    region varchar({REGION_LENGTH}) NOT NULL, flags bigint NOT NULL, PRIMARY KEY (sensor_id, timestamp)
) PARTITION BY HASH (sensor_id)
"""

_BY_TIME = "CREATE INDEX IF NOT EXISTS sensor_readings_by_time ON sensor_readings USING brin (timestamp)"

_SENSORS_SEEN = f"""
CREATE TABLE IF NOT EXISTS sensors_seen (
    sensor_id bigint NOT NULL, region varchar({REGION_LENGTH}) NOT NULL, first_time timestamptz NOT NULL,
    PRIMARY KEY (sensor_id, region))
"""

_BY_REGION = "CREATE INDEX IF NOT EXISTS sensors_seen_by_region ON sensors_seen (region, sensor_id)"

# "index" is the place of the reading within its record of the log; topic, partition and "offset" are the record's.
_CONFLICTING_READINGS = f"""
CREATE TABLE IF NOT EXISTS conflicting_readings (
    sensor_id bigint NOT NULL, timestamp timestamptz NOT NULL, {_VALUES},
    region varchar({REGION_LENGTH}) NOT NULL, flags bigint NOT NULL,
    log_id text NOT NULL, topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL, index int NOT NULL,
    PRIMARY KEY (sensor_id, timestamp, log_id, topic, partition, "offset", index))
"""

_NOT_NUMBERED = """
SELECT NOT EXISTS (
    SELECT 1 FROM pg_attribute WHERE attrelid = 'conflicting_readings'::regclass AND attname = 'written_by' AND NOT attisdropped)
"""

# Their order of export. Ids alone would not do: of two transactions the later one may commit first.
_NUMBER_CONFLICTS = """
ALTER TABLE conflicting_readings ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY,
                                 ADD COLUMN written_by xid8 NOT NULL DEFAULT pg_current_xact_id()
"""

_CONFLICTS_IN_ORDER = "CREATE INDEX IF NOT EXISTS conflicting_readings_in_order ON conflicting_readings (written_by, id)"

# How far conflicting readings are exported, and how many; cut_by and cut_id: where the next object ends, fixed before it is put.
_CONFLICTS_EXPORTED = """
CREATE TABLE IF NOT EXISTS conflicts_exported (
    log_id text PRIMARY KEY, count bigint NOT NULL DEFAULT 0, written_by xid8 NOT NULL DEFAULT '0', id bigint NOT NULL DEFAULT 0,
    cut_by xid8, cut_id bigint)
"""

# Readings of restored objects that were stored here, and that were left out because their keys were here.
_RESTORED_OBJECTS = """
CREATE TABLE IF NOT EXISTS restored_objects (path text COLLATE "C" PRIMARY KEY, stored bigint NOT NULL, known bigint NOT NULL)
"""

# Days whose leaves stand alone until the archive is sure of all up to `passed`: [log_id, topic, partition, offset].
_DAYS_LEAVING = """
CREATE TABLE IF NOT EXISTS days_leaving (slot int NOT NULL, day date NOT NULL, passed jsonb NOT NULL, PRIMARY KEY (slot, day))
"""

_BOUNDS = """
SELECT pg_get_expr(leaf.relpartbound, leaf.oid) FROM pg_inherits i JOIN pg_class leaf ON leaf.oid = i.inhrelid
WHERE i.inhparent = 'sensor_readings'::regclass LIMIT 1
"""

# Every dead record that was counted, so that one buried twice (a stage crashed after it) counts once.
_DEAD_SEEN = """
CREATE TABLE IF NOT EXISTS dead_seen (
    stage text NOT NULL, topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL, appended_at_us bigint NOT NULL,
    PRIMARY KEY (stage, topic, partition, "offset"))
"""

# One row per hour of arrival that has counts. ends: partitions' next offsets once the hour was over for 60 s, then dead_ends:
# those of `dead` once every recorder had passed `ends`; settled once count has passed both.
_HOUR_FENCES = """
CREATE TABLE IF NOT EXISTS hour_fences (
    hour_us bigint PRIMARY KEY, ends jsonb, dead_ends jsonb, settled boolean NOT NULL DEFAULT false)
"""

_UNSETTLED = "CREATE INDEX IF NOT EXISTS hour_fences_unsettled ON hour_fences (hour_us) WHERE NOT settled"

# What is fixed when a deployment is made. keep_days: 0 for ever. first_day (UTC): what was measured before is never dropped.
_DEPLOYMENT = """
CREATE TABLE IF NOT EXISTS deployment (
    keep_days int NOT NULL CHECK (keep_days >= 0), first_day date NOT NULL,
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one))
"""
