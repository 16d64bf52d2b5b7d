"""Which partitions a consumer of the embedded Log has: members of a group share them, a session's lock for each one held.

A member is alive while its session holds the lock of its number; so a killed process is out at once, without any timer.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress

import psycopg

from mesh.adapters.postgres_connections import Row, connect, fetch, is_alive
from mesh.adapters.postgres_log_listen import CHANNEL, MEMBERS
from mesh.errors import Unavailable
from mesh.ports import Assigned, Partition, Revoked

CHECK_S = 1.0
HURRY_S = 0.05
_LEAVE_S = 2.0

# The lock is there before the row is seen, so no member looks dead to another.
_JOIN_LOCK = "SELECT id, pg_advisory_lock(%s + id) FROM nextval('log.member_ids') AS id"
_JOIN = "INSERT INTO log.members (member_id, group_name, topics) VALUES (%s, %s, %s)"
_LIVING = """
SELECT member_id, topics, member_id <> %(me)s AND pg_try_advisory_xact_lock_shared(%(base)s + member_id) AS dead
FROM log.members WHERE group_name = %(group)s ORDER BY member_id
"""
_FORGET = "DELETE FROM log.members WHERE member_id = ANY(%s)"
_LOCK = "SELECT place FROM unnest(%s::bigint[]) WITH ORDINALITY AS wanted (key, place) WHERE pg_try_advisory_lock(key)"
_UNLOCK = "SELECT pg_advisory_unlock(key) FROM unnest(%s::bigint[]) AS key"
_NOTIFY = "SELECT pg_notify(%s, %s)"
_MEMBER_BASE = 0x57_51 << 40


class Membership:
    """One member of one group, on a session of its own. Looks after itself whenever `check` is called, and only then."""

    def __init__(self, conninfo: str, group: str, topics: Sequence[str], partitions: Sequence[Partition]) -> None:
        self._conninfo = conninfo
        self._group = group
        self._topics = list(topics)
        self._all = partitions
        self._held: set[Partition] = set()
        self._leaving: tuple[Partition, ...] = ()
        self._session: psycopg.AsyncConnection[Row] | None = None
        self._member_id = 0
        self._check_at_s = 0.0

    @property
    def check_in_s(self) -> float:
        """How long until `check` has something to do."""
        return max(0.0, self._check_at_s - asyncio.get_running_loop().time())

    def hurry(self) -> None:
        """There may be news: the next check looks."""
        self._check_at_s = 0.0

    async def check(self) -> Assigned | Revoked | None:
        """What changed, one thing at a time. Partitions told as revoked are let go by the next call, not before; those told
        as assigned are ours. Raises Unavailable when the database is away, after everything was told as revoked."""
        if self._session is not None and not is_alive(self._session):
            return await self._lost()
        if self.check_in_s > 0 and not self._leaving and self._session is not None:
            return None
        try:
            return await self._look()
        except Unavailable:
            if not self._held:
                raise
            return await self._lost()

    async def leave(self) -> None:
        """Out of the group, everything let go; at most 2 s."""
        session, self._session = self._session, None
        if session is None:
            return
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await fetch(session, _FORGET, ([self._member_id],))
                await fetch(session, "SELECT pg_advisory_unlock_all()")
                await fetch(session, _NOTIFY, (CHANNEL, MEMBERS))
        await session.close()

    async def _look(self) -> Assigned | Revoked | None:
        session = self._session or await self._join()
        if self._leaving:
            await fetch(session, _UNLOCK, ([self._key(partition) for partition in self._leaving],))
            self._held -= set(self._leaving)
            self._leaving = ()
            await fetch(session, _NOTIFY, (CHANNEL, MEMBERS))
        share = await self._share(session)
        if gone := tuple(sorted(self._held - share)):
            self._leaving = gone
            return Revoked(gone)
        missing = sorted(share - self._held)
        got: list[Partition] = []
        if missing:
            rows = await fetch(session, _LOCK, ([self._key(partition) for partition in missing],))
            got = [missing[place - 1] for (place,) in rows]
            self._held |= set(got)
        wait_s = CHECK_S if len(got) == len(missing) else HURRY_S
        self._check_at_s = asyncio.get_running_loop().time() + wait_s
        return Assigned(tuple(got)) if got else None

    async def _join(self) -> psycopg.AsyncConnection[Row]:
        session = await connect(self._conninfo)
        ((self._member_id, _),) = await fetch(session, _JOIN_LOCK, (_MEMBER_BASE,))
        await fetch(session, _JOIN, (self._member_id, self._group, self._topics))
        await fetch(session, _NOTIFY, (CHANNEL, MEMBERS))
        self._session = session
        return session

    async def _share(self, session: psycopg.AsyncConnection[Row]) -> set[Partition]:
        """Our share: of each topic, number n goes to the n-th of the living members that read it, round and round."""
        rows = await fetch(session, _LIVING, {"me": self._member_id, "group": self._group, "base": _MEMBER_BASE})
        if self._member_id not in (member for member, _, _ in rows):
            await session.close()
            raise Unavailable(f"member {self._member_id} of the group {self._group!r} was struck off: it joins again")
        if dead := [member for member, _, is_dead in rows if is_dead]:
            await fetch(session, _FORGET, (dead,))
        readers = {topic: [member for member, of, is_dead in rows if topic in of and not is_dead] for topic in self._topics}
        return {p for p in self._all if readers[p.topic][p.number % len(readers[p.topic])] == self._member_id}

    async def _lost(self) -> Revoked | None:
        """The session is gone, and our locks with it."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        gone, self._held, self._leaving = tuple(sorted(self._held)), set(), ()
        self._check_at_s = 0.0
        return Revoked(gone) if gone else None

    def _key(self, partition: Partition) -> int:
        name = f"{self._group}/{partition.topic}/{partition.number}"
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
