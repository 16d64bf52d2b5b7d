"""How alerts and episodes are locked, read and written: few statements, each for many conditions at once.

Who writes holds locks until its commit, always in this order: rules (raise_alert shares them, a change of a rule has them
alone), conditions (raise_alert only), then the rows of alerts. So a change is made from what the one before it left.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from alert_svc import outbox
from alert_svc.alert_rows import alert_of, alert_row, episode_of, episode_row, event_row, standing_of
from alert_svc.facts import to_json
from alert_svc.standing import Changes, Episode, Standing
from mesh.codec.alerts import Alert
from mesh.codec.tasks import Task
from mesh.errors import NotFound


class Found(NamedTuple):
    """What is known of some conditions, and ids for the alerts that may have to be made."""

    episodes: list[Episode]
    standings: list[Standing]
    ids: list[int]


async def lock_conditions(connection: AsyncConnection, rules: Iterable[str], conditions: Iterable[str]) -> set[str]:
    """Which of the rules are in force, and stay so until the transaction ends; until then too nobody else takes tasks of these
    conditions. Waits for whoever has them."""
    asked = {"rules": sorted(set(rules)), "conditions": sorted(set(conditions))}
    return set((await connection.execute(_LOCK, asked)).scalar_one() or ())


async def load(connection: AsyncConnection, tasks: Sequence[Task]) -> Found:
    """What a Story needs for these tasks, and as many ids as are likely to do. The alerts are locked."""
    asked = {
        "conditions": [task.condition.condition_id for task in tasks],
        "begans": [task.condition.began_us for task in tasks],
    }
    episodes, standings, ids = (await connection.execute(_LOAD, asked)).one()
    return Found([episode_of(row) for row in episodes or ()], [standing_of(row) for row in standings or ()], ids or [])


async def next_ids(connection: AsyncConnection, count: int) -> list[int]:
    """Ids that no alert has."""
    return list((await connection.execute(_NEXT_IDS, {"count": count})).scalars())


async def load_alert(connection: AsyncConnection, alert_id: int) -> Standing:
    """One alert, locked. Raises NotFound."""
    row = (await connection.execute(_ONE, {"alert_id": alert_id})).scalar_one_or_none()
    if row is None:
        raise not_found(alert_id)
    return standing_of(row)


async def read_alerts(connection: AsyncConnection, query: Select[Any]) -> list[Alert]:
    """The alerts of a query on ALERTS, in its order. Only what it gives is made JSON of, not what it sorts."""
    rows = query.subquery("a")
    return [alert_of(row) for row in (await connection.execute(select(func.to_jsonb(rows.table_valued())))).scalars()]


def not_found(alert_id: int) -> NotFound:
    """The error for an alert that is not there."""
    message = f"no alert {alert_id}: see ListAlerts"
    return NotFound(message, reason="ALERT_NOT_FOUND", metadata={"alert_id": str(alert_id)})


async def load_lasting(connection: AsyncConnection, rule_id: str, after_id: int, limit: int) -> list[Standing]:
    """Alerts of a rule whose condition lasts, by id, locked."""
    asked = {"rule_id": rule_id, "after_id": after_id, "limit": limit}
    return [standing_of(row) for row in (await connection.execute(_LASTING, asked)).scalars()]


async def end_episodes(connection: AsyncConnection, alert_ids: Sequence[int], at_us: int) -> None:
    """What lasts of these alerts' episodes ended at that time, or where it began later, then."""
    await connection.execute(_END_EPISODES, {"alert_ids": alert_ids, "at_us": at_us})


async def write(connection: AsyncConnection, changes: Changes) -> None:
    """Stores what changed, with its events and notices."""
    if changes.is_empty:
        return
    content = {
        "alerts": to_json([alert_row(standing) for standing in changes.changed()]),
        "episodes": to_json([episode_row(episode) for episode in changes.episodes.values()]),
        "events": to_json([event_row(*happened) for happened in changes.events]),
        "rules": sorted(changes.dropped),
        "counts": [changes.dropped[rule] for rule in sorted(changes.dropped)],
        **outbox.columns(changes.notices),
    }
    await connection.execute(_WRITE, content)
    if changes.absorbed:
        gone = {"gone": list(changes.absorbed), "into": list(changes.absorbed.values())}
        await connection.execute(_ABSORB, gone)


# One statement, so one snapshot, taken before the locks: what the locks guard is read by the next one. That one is planned anew
# each time: a plan that was kept from when the tables were small would read all of them when they are large.
_LOCK = text(
    """
WITH living AS MATERIALIZED (
    SELECT rule_id FROM alert.rules WHERE rule_id = ANY(CAST(:rules AS text[])) AND NOT disabled ORDER BY rule_id FOR KEY SHARE
), ours AS MATERIALIZED (SELECT array_agg(rule_id) AS rules FROM living), keys AS MATERIALIZED (
    SELECT DISTINCT hashtextextended(condition_id, 8) AS key FROM unnest(CAST(:conditions AS text[])) AS c (condition_id), ours
    ORDER BY key
), locked AS MATERIALIZED (SELECT count(pg_advisory_xact_lock(key)) AS count FROM keys)
SELECT rules, set_config('plan_cache_mode', 'force_custom_plan', false) FROM ours, locked WHERE count >= 0
"""
)

_LOAD = text(
    """
WITH t AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:conditions AS text[]), CAST(:begans AS bigint[])) AS t (condition_id, began_us)
), e AS MATERIALIZED (
    SELECT e.* FROM t JOIN alert.episodes AS e USING (condition_id, began_us)
    UNION
    SELECT e.* FROM t CROSS JOIN LATERAL (
        SELECT * FROM alert.episodes AS e WHERE e.condition_id = t.condition_id AND e.began_us > t.began_us AND NOT historical
        ORDER BY began_us LIMIT 1) AS e
), a AS MATERIALIZED (
    SELECT * FROM alert.contamination_alerts WHERE alert_id = ANY(ARRAY(SELECT alert_id FROM e))
        OR condition_id = ANY(CAST(:conditions AS text[])) AND state <> 7 AND NOT historical
    FOR NO KEY UPDATE
)
SELECT (SELECT jsonb_agg(to_jsonb(e)) FROM e), (SELECT jsonb_agg(to_jsonb(a)) FROM a), ARRAY(
    SELECT nextval(pg_get_serial_sequence('alert.contamination_alerts', 'alert_id'))
    FROM (
        SELECT DISTINCT condition_id, began_us FROM t
        WHERE NOT EXISTS (SELECT FROM e WHERE e.condition_id = t.condition_id AND e.began_us = t.began_us)
            AND NOT EXISTS (SELECT FROM a WHERE a.condition_id = t.condition_id AND state <> 7)
    ) AS new)
"""
)

_NEXT_IDS = text(
    """
SELECT nextval(pg_get_serial_sequence('alert.contamination_alerts', 'alert_id')) FROM generate_series(1, :count)
"""
)
_ONE = text("SELECT to_jsonb(a) FROM alert.contamination_alerts AS a WHERE alert_id = :alert_id FOR NO KEY UPDATE")
_LASTING = text(
    """
SELECT to_jsonb(a) FROM alert.contamination_alerts AS a
WHERE rule_id = :rule_id AND cleared IS NULL AND NOT historical AND alert_id > :after_id
ORDER BY alert_id LIMIT :limit FOR NO KEY UPDATE
"""
)
_END_EPISODES = text(
    """
UPDATE alert.episodes SET ended_us = greatest(CAST(:at_us AS bigint), began_us)
WHERE alert_id = ANY(CAST(:alert_ids AS bigint[])) AND ended_us IS NULL
"""
)

_WRITE = text(
    f"""
WITH notices AS ({outbox.ADD}), alerts AS (
    INSERT INTO alert.contamination_alerts (alert_id, sensor_id, timestamp, contaminant_type, severity_level, state, kind,
        rule_id, condition_id, site_id, region, gateway_id, last_seen, cleared, committed, historical, evidence, change,
        newest_us, strength, written_by)
    SELECT *, pg_current_xact_id() FROM jsonb_to_recordset(CAST(:alerts AS jsonb)) AS r (alert_id bigint, sensor_id bigint,
        timestamp timestamptz, contaminant_type text, severity_level smallint, state smallint, kind smallint, rule_id text,
        condition_id text, site_id text, region text, gateway_id text, last_seen timestamptz, cleared timestamptz,
        committed timestamptz, historical boolean, evidence jsonb, change int, newest_us bigint, strength jsonb)
    ON CONFLICT (alert_id) DO UPDATE SET sensor_id = excluded.sensor_id, timestamp = excluded.timestamp,
        contaminant_type = excluded.contaminant_type, severity_level = excluded.severity_level, state = excluded.state,
        kind = excluded.kind, rule_id = excluded.rule_id, site_id = excluded.site_id, region = excluded.region,
        gateway_id = excluded.gateway_id, last_seen = excluded.last_seen, cleared = excluded.cleared,
        committed = excluded.committed, historical = excluded.historical, evidence = excluded.evidence, change = excluded.change,
        newest_us = excluded.newest_us, strength = excluded.strength, written_by = excluded.written_by
), episodes AS (
    INSERT INTO alert.episodes (condition_id, began_us, ended_us, historical, alert_id, facts)
    SELECT * FROM jsonb_to_recordset(CAST(:episodes AS jsonb))
        AS r (condition_id text, began_us bigint, ended_us bigint, historical boolean, alert_id bigint, facts jsonb)
    ON CONFLICT (condition_id, began_us) DO UPDATE SET ended_us = excluded.ended_us, historical = excluded.historical,
        alert_id = excluded.alert_id, facts = excluded.facts
), events AS (
    INSERT INTO alert.alert_events (alert_id, change, time, actor, from_state, to_state, comment)
    SELECT * FROM jsonb_to_recordset(CAST(:events AS jsonb)) AS r (alert_id bigint, change int, time timestamptz, actor text,
        from_state smallint, to_state smallint, comment text)
)
INSERT INTO alert.dropped_tasks AS d (rule_id, count)
SELECT * FROM unnest(CAST(:rules AS text[]), CAST(:counts AS bigint[]))
ON CONFLICT (rule_id) DO UPDATE SET count = d.count + excluded.count
"""
)

# After the episodes have moved.
_ABSORB = text(
    """
WITH moved AS (
    UPDATE alert.alert_events AS e SET alert_id = g.into_id
    FROM unnest(CAST(:gone AS bigint[]), CAST(:into AS bigint[])) AS g (from_id, into_id)
    WHERE e.alert_id = g.from_id AND actor <> 'system'
), forgotten AS (
    DELETE FROM alert.alert_events WHERE alert_id = ANY(CAST(:gone AS bigint[])) AND actor = 'system'
)
DELETE FROM alert.contamination_alerts WHERE alert_id = ANY(CAST(:gone AS bigint[]))
"""
)
