"""How do people read alerts, and what may they do with one?"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alert_svc import life, store
from alert_svc.alert_filter import AlertFilter, check_filter
from alert_svc.alert_rows import alert_of, at, event_of
from alert_svc.standing import Changes
from alert_svc.tables import ALERTS
from mesh.codec.alerts import SYSTEM, Alert, Event, State
from mesh.errors import InvalidArgument
from mesh.pages import page_size, read_cursor, write_cursor
from mesh.ports import Clock
from mesh.shards import transaction
from mesh.tokens import not_ours

DEFAULT_PAGE, LONGEST_PAGE = 100, 1_000
LONGEST_COMMENT = 2_000
LONGEST_ACTOR = 100
MOST_HISTORY = 400  # 3.2 MB, were every one a longest comment; a client of gRPC takes 4 MiB


@dataclass(frozen=True, slots=True)
class Told:
    """An alert and its history, oldest first: the newest 400 steps of it."""

    alert: Alert
    history: tuple[Event, ...]


class Alerts:
    """Alerts in the catalog database. A change is seen by every read that begins after its answer. Who acts holds the alert's
    row, so that two persons act one after the other; each change is an event with its actor, and a notice when the state
    changes."""

    def __init__(self, engine: AsyncEngine, clock: Clock, committed: Callable[[], None] = lambda: None) -> None:
        """`committed` is called after each change, to wake who shows alerts."""
        self._engine = engine
        self._clock = clock
        self._committed = committed

    async def get(self, alert_id: int) -> Told:
        """Raises NotFound (ALERT_NOT_FOUND)."""
        async with transaction(self._engine) as connection:
            return await _told(connection, alert_id)

    async def list(self, asked: AlertFilter, size: int, token: str) -> tuple[list[Alert], str]:
        """Alerts, the newest condition first, and the token of the next page, empty at the end. An alert that is there during
        the whole of it is in some page, whatever is raised meanwhile."""
        limit = page_size(size, DEFAULT_PAGE, LONGEST_PAGE)
        check_filter(asked)
        question = asked.fingerprint()
        after = _after(question, token)
        place = tuple_(ALERTS.c.timestamp, ALERTS.c.alert_id)
        query = select(ALERTS).where(asked.conditions()).limit(limit + 1)
        query = query.order_by(ALERTS.c.timestamp.desc(), ALERTS.c.alert_id.desc())
        query = query.where(place < after) if after else query
        async with transaction(self._engine) as connection:
            alerts = await store.read_alerts(connection, query)
        page = alerts[:limit]
        return page, write_cursor("alerts", question, [page[-1].raised_us, page[-1].alert_id]) if len(alerts) > limit else ""

    async def acknowledge(self, alert_id: int, actor: str, comment: str) -> Told:
        """A person has seen it. Raises NotFound, FailedPrecondition (ALREADY_ACKNOWLEDGED, ALERT_RESOLVED)."""
        _check(actor, comment, required=False)
        return await self._change(alert_id, actor, comment, life.acknowledged)

    async def resolve(self, alert_id: int, actor: str, comment: str) -> Told:
        """A person closes it, whether or not its condition is over; no later news of the same episode opens it again. Raises
        NotFound, FailedPrecondition (ALERT_RESOLVED)."""
        _check(actor, comment, required=True)
        return await self._change(alert_id, actor, comment, life.resolved)

    async def comment(self, alert_id: int, actor: str, comment: str) -> Told:
        """A remark, in any state. Raises NotFound."""
        _check(actor, comment, required=True)
        return await self._change(alert_id, actor, comment, lambda alert: alert.state)

    async def _change(self, alert_id: int, actor: str, comment: str, follow: Callable[[Alert], State]) -> Told:
        async with transaction(self._engine) as connection:
            old = await store.load_alert(connection, alert_id)
            changes = Changes()
            state = follow(old.alert)
            changes.put(old, replace(old, alert=replace(old.alert, state=state)), self._clock.now_us(), actor, comment)
            await store.write(connection, changes)
            told = await _told(connection, alert_id)
        self._committed()
        return told


def _after(question: str, token: str) -> tuple[datetime, int] | None:
    """Time and id of the last alert of the page before; None: there was none."""
    cursor = read_cursor("alerts", question, token, [int, int])
    try:
        return (at(cursor[0]), cursor[1]) if cursor else None
    except OverflowError:
        raise not_ours("alerts", "page_token") from None


async def _told(connection: AsyncConnection, alert_id: int) -> Told:
    row = (await connection.execute(_TOLD, {"alert_id": alert_id, "most": MOST_HISTORY})).first()
    if row is None:
        raise store.not_found(alert_id)
    return Told(alert_of(row.alert), tuple(event_of(event) for event in row.history or ()))


def _check(actor: str, comment: str, *, required: bool) -> None:
    problems = {}
    if not (1 <= len(actor) <= LONGEST_ACTOR and actor.isprintable()) or actor == SYSTEM:
        problems["wq-actor"] = (
            f"{actor[:LONGEST_ACTOR]!r}: 1 to {LONGEST_ACTOR} printable characters that say who acts, not {SYSTEM!r}"
        )
    if required and not comment.strip():
        problems["comment"] = "says nothing: 1 to 2,000 characters are required"
    if len(comment) > LONGEST_COMMENT:
        problems["comment"] = f"{len(comment)} characters: at most {LONGEST_COMMENT:,}"
    if "\0" in comment:
        problems["comment"] = "has a NUL character, which cannot be stored"
    if problems:
        raise InvalidArgument("; ".join(f"{field}: {problem}" for field, problem in problems.items()), fields=problems)


_TOLD = text(
    """
SELECT to_jsonb(a) AS alert, (
    SELECT jsonb_agg(to_jsonb(e) ORDER BY event_id) FROM (
        SELECT * FROM alert.alert_events WHERE alert_id = :alert_id ORDER BY event_id DESC LIMIT :most) AS e) AS history
FROM alert.contamination_alerts AS a WHERE alert_id = :alert_id
"""
)
