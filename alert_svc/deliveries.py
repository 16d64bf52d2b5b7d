"""Which notice goes where next: handing notices of the outbox to channels, claiming, settling and forgetting deliveries."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

OPENED_AT_ONCE = 500
LONGEST_RUN = 16
BEHIND_US = 2**62  # `next_us` of what waits for an earlier change of its alert: so only the first of each alert is ever looked at
FORGOTTEN_AT_ONCE = 1000


class Key(NamedTuple):
    """One notice on one channel."""

    notice_id: int
    channel: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is ours to try until the claim ends. `tries` counts this one; `unsure`: an earlier one has no known end."""

    key: Key
    alert_id: int
    change: int
    message_id: str
    tries: int
    opened_us: int
    unsure: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """How a try ended. `status`: delivered, given_up, or waiting to be tried again at `next_us`."""

    claimed: Claimed
    status: str
    next_us: int = 0
    problem: str = ""


async def hand_out(connection: AsyncConnection, channels: Sequence[str], now_us: int) -> None:
    """Gives new notices to each channel, in the order of their changes. Does nothing while another worker is at it."""
    if (await connection.execute(text(_ANY_NEW))).first() is None:
        return
    if not (await connection.execute(text(_MY_TURN))).scalar_one():
        return
    given = {"channels": list(channels), "now_us": now_us, "most": OPENED_AT_ONCE, "behind_us": BEHIND_US}
    await connection.execute(text(_HAND_OUT), given)


async def claim(
    connection: AsyncConnection, channel: str, most: int, worker: str, life: str, now_us: int, until_us: int
) -> list[Claimed]:
    """Deliveries that are due, of at most that many alerts, new ones first, oldest first: of each alert its first changes that
    wait on this channel, at most 16, none left out in between; none that is another worker's until its claim ends. They come
    alert by alert, each in its order."""
    given = {"channel": channel, "most": most, "run": LONGEST_RUN, "now_us": now_us, "until_us": until_us}
    given |= {"worker": worker, "life": life, "behind_us": BEHIND_US}
    rows = await connection.execute(text(_CLAIM), given)
    claimed = [
        Claimed(
            Key(row.notice_id, channel),
            row.alert_id,
            row.change,
            row.message_id.hex,
            row.tries,
            row.opened_us,
            row.unsure,
            bytes(row.body),
        )
        for row in rows
    ]
    return sorted(claimed, key=lambda one: (one.alert_id, one.change))


async def settle(connection: AsyncConnection, ended: Sequence[Ended], life: str, now_us: int) -> None:
    """Writes down how tries ended. Safe to repeat. A failure counts only while the claim is still of this life; a delivery
    counts whatever others did meanwhile."""
    if not ended:
        return
    columns = {
        "notices": [one.claimed.key.notice_id for one in ended],
        "channels": [one.claimed.key.channel for one in ended],
        "statuses": [one.status for one in ended],
        "nexts": [one.next_us for one in ended],
        "problems": [one.problem.replace("\0", "")[:500] for one in ended],
    }
    await connection.execute(text(_WAIT_FOR_TURN))
    await connection.execute(text(_SETTLE), columns | {"life": life, "now_us": now_us})
    await _release(connection, {(one.claimed.alert_id, one.claimed.key.channel) for one in ended if one.status != "waiting"})


async def hand_back(connection: AsyncConnection, worker: str, life: str, kept: Collection[Key], begun: Collection[Key]) -> None:
    """Ends the claims of this worker at once, but for those kept. One that was taken in this life and not begun is as if it had
    never been taken; any other is unsure from now on."""
    given = {
        "worker": worker,
        "life": life,
        "kept": [key.notice_id for key in kept],
        "kept_on": [key.channel for key in kept],
        "begun": [key.notice_id for key in begun],
        "begun_on": [key.channel for key in begun],
    }
    await connection.execute(text(_HAND_BACK), given)


async def sweep(connection: AsyncConnection, channels: Sequence[str], forgotten_us: int, hopeless_us: int, now_us: int) -> int:
    """Forgets at most 1,000 notices that ended on every channel before `forgotten_us`; how many. Gives up deliveries of
    channels that are no longer configured, handed out before `hopeless_us`."""
    given = {"channels": list(channels), "hopeless_us": hopeless_us, "now_us": now_us}
    await connection.execute(text(_WAIT_FOR_TURN))
    unserved = await connection.execute(text(_GIVE_UP_UNSERVED), given)
    await _release(connection, {(alert_id, channel) for alert_id, channel in unserved})
    forgotten = await connection.execute(text(_FORGET), {"before_us": forgotten_us, "most": FORGOTTEN_AT_ONCE})
    return len(forgotten.all())


async def _release(connection: AsyncConnection, over: Collection[tuple[int, str]]) -> None:
    """The first that waits of each of these alerts on that channel waits for nothing any more."""
    if over:
        given = {"alerts": [alert_id for alert_id, _ in over], "channels": [channel for _, channel in over]}
        await connection.execute(text(_RELEASE), given | {"behind_us": BEHIND_US})


_ANY_NEW = "SELECT 1 FROM alert.outbox WHERE opened_us IS NULL LIMIT 1"
_MY_TURN = "SELECT pg_try_advisory_xact_lock(hashtext('alert.outbox'))"
_WAIT_FOR_TURN = "SELECT pg_advisory_xact_lock(hashtext('alert.outbox'))"

# One worker at a time and in order, so that a later change is never there for others before an earlier one. Nobody settles
# meanwhile: what is put behind another here is released when that one ends.
_HAND_OUT = """
WITH fresh AS MATERIALIZED (
    SELECT notice_id, alert_id, change, row_number() OVER (PARTITION BY alert_id ORDER BY change) AS place
    FROM (SELECT * FROM alert.outbox WHERE opened_us IS NULL ORDER BY notice_id LIMIT :most) AS o),
opened AS (UPDATE alert.outbox o SET opened_us = :now_us FROM fresh WHERE o.notice_id = fresh.notice_id)
INSERT INTO alert.deliveries (notice_id, channel, alert_id, change, next_us)
SELECT notice_id, channel, alert_id, change, CASE WHEN place = 1 AND (
    SELECT e.change FROM alert.deliveries e
    WHERE e.status = 'waiting' AND e.alert_id = fresh.alert_id AND e.channel = c.channel LIMIT 1) IS NULL
    THEN 0 ELSE CAST(:behind_us AS bigint) END
FROM fresh CROSS JOIN unnest(CAST(:channels AS text[])) AS c (channel)
"""

_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT alert_id FROM alert.deliveries d
    WHERE status = 'waiting' AND channel = :channel AND next_us <= :now_us AND claimed_until_us <= :now_us
      AND change = (
        SELECT e.change FROM alert.deliveries e
        WHERE e.status = 'waiting' AND e.alert_id = d.alert_id AND e.channel = d.channel ORDER BY e.change LIMIT 1)
    ORDER BY next_us, notice_id LIMIT :most FOR UPDATE SKIP LOCKED
), ours AS MATERIALIZED (
    SELECT notice_id, unsure FROM due CROSS JOIN LATERAL (
        SELECT notice_id, claim IS NOT NULL AS unsure,
            bool_and(next_us <= :now_us OR next_us = :behind_us) OVER (ORDER BY change)
                AND bool_and(claimed_until_us <= :now_us) OVER (ORDER BY change) AS follows
        FROM (
            SELECT * FROM alert.deliveries f
            WHERE f.status = 'waiting' AND f.alert_id = due.alert_id AND f.channel = :channel
            ORDER BY change LIMIT :run) AS first) AS run
    WHERE follows)
UPDATE alert.deliveries d SET worker = :worker, claim = :life, claimed_until_us = :until_us, tries = tries + 1
FROM ours JOIN alert.outbox o USING (notice_id)
WHERE d.notice_id = ours.notice_id AND d.channel = :channel AND d.status = 'waiting' AND d.claimed_until_us <= :now_us
RETURNING d.notice_id, d.alert_id, d.change, d.tries, ours.unsure, o.message_id, o.opened_us, o.body
"""

_SETTLE = """
UPDATE alert.deliveries d
SET status = e.status, next_us = e.next_us, problem = e.problem, worker = NULL, claim = NULL, claimed_until_us = 0,
    ended_us = CASE WHEN e.status = 'waiting' THEN NULL ELSE :now_us END
FROM unnest(CAST(:notices AS bigint[]), CAST(:channels AS text[]), CAST(:statuses AS text[]), CAST(:nexts AS bigint[]),
    CAST(:problems AS text[])) AS e (notice_id, channel, status, next_us, problem)
WHERE d.notice_id = e.notice_id AND d.channel = e.channel
  AND (d.status = 'waiting' AND d.claim = :life OR e.status = 'delivered' AND d.status <> 'delivered')
"""

_RELEASE = """
UPDATE alert.deliveries d SET next_us = 0
FROM unnest(CAST(:alerts AS bigint[]), CAST(:channels AS text[])) AS e (alert_id, channel)
WHERE d.status = 'waiting' AND d.next_us = :behind_us AND d.alert_id = e.alert_id AND d.channel = e.channel AND d.change = (
    SELECT n.change FROM alert.deliveries n
    WHERE n.status = 'waiting' AND n.alert_id = e.alert_id AND n.channel = e.channel ORDER BY n.change LIMIT 1)
"""

_HAND_BACK = """
UPDATE alert.deliveries d
SET claimed_until_us = 0, claim = CASE WHEN untouched THEN NULL ELSE claim END, tries = tries - CAST(untouched AS int)
FROM (
    SELECT notice_id, channel, claim = :life AND (notice_id, channel) NOT IN (
        SELECT * FROM unnest(CAST(:begun AS bigint[]), CAST(:begun_on AS text[]))) AS untouched
    FROM alert.deliveries
    WHERE worker = :worker AND claim IS NOT NULL AND (notice_id, channel) NOT IN (
        SELECT * FROM unnest(CAST(:kept AS bigint[]), CAST(:kept_on AS text[])))) AS mine
WHERE d.notice_id = mine.notice_id AND d.channel = mine.channel AND d.worker = :worker AND d.claim IS NOT NULL
"""

_GIVE_UP_UNSERVED = """
UPDATE alert.deliveries d SET status = 'given_up', ended_us = :now_us, claim = NULL, worker = NULL,
    problem = 'this channel has not been configured for too long'
FROM alert.outbox o
WHERE d.status = 'waiting' AND d.channel <> ALL (CAST(:channels AS text[])) AND o.notice_id = d.notice_id
  AND o.opened_us < :hopeless_us
RETURNING d.alert_id, d.channel
"""

_FORGET = """
DELETE FROM alert.outbox WHERE notice_id IN (
    SELECT notice_id FROM alert.outbox o
    WHERE opened_us < :before_us AND NOT EXISTS (
        SELECT FROM alert.deliveries d
        WHERE d.notice_id = o.notice_id AND (d.status = 'waiting' OR d.ended_us >= :before_us))
    ORDER BY opened_us LIMIT :most FOR UPDATE SKIP LOCKED)
RETURNING notice_id
"""
