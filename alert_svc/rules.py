"""How are rules listed, set and deleted, each change one transaction that makes a new version of the rule set?"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alert_svc.known_sites import KnownSites
from alert_svc.rule_checks import checked
from alert_svc.rule_end import clear_alerts_of_rule
from alert_svc.rule_tables import RULES, rule_columns, rule_of
from mesh.errors import Conflict, InvalidArgument, NotFound, TooLarge
from mesh.pages import page_size, read_cursor, write_cursor
from mesh.ports import Clock
from mesh.shards import transaction
from water.rules import Rule

DEFAULT_PAGE, LONGEST_PAGE = 100, 1_000
PAGE_BYTES = 2 * 1024 * 1024  # a client of gRPC takes 4 MiB
MOST_RULES = 10_000
MOST_BYTES = 8 * 1024 * 1024  # every screener reads all of them at every change


class Page(NamedTuple):
    """Rules by id, the token of the next page (empty at the end), and the version of the rule set that they are of."""

    rules: list[Rule]
    token: str
    version: int


class Rules:
    """Rules in the catalog database. A change is seen by every read that begins after its answer."""

    def __init__(self, engine: AsyncEngine, sites: KnownSites, clock: Clock) -> None:
        self._engine = engine
        self._sites = sites
        self._clock = clock

    async def list(self, size: int, token: str) -> Page:
        """A page of at most `size` rules (0: 100; lowered to 1,000), fewer when they are very long, but one at least. Raises
        InvalidArgument for a negative size and a token that is none of ours."""
        limit = page_size(size, DEFAULT_PAGE, LONGEST_PAGE)
        (after,) = read_cursor("rules", "", token, [str]) or ("",)
        async with transaction(self._engine) as connection:
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            version = (await connection.execute(text("SELECT newest FROM alert.rules_version"))).scalar_one()
            asked = {"after": after, "most": limit + 1, "page": limit, "bytes": PAGE_BYTES}
            fits, more = (await connection.execute(text(_FITS), asked)).one()
            query = select(RULES).where(RULES.c.rule_id > after).order_by(RULES.c.rule_id).limit(fits)
            rules = [rule_of(row) for row in await connection.execute(query)]
        return Page(rules, write_cursor("rules", "", [rules[-1].rule_id]) if more else "", version)

    async def set(self, rule: Rule, problems: Mapping[str, str] | None = None) -> Rule:
        """The rule as stored, created or replaced; what the server gives (version, time) is ignored in what is given. A rule that
        is disabled has no open alert afterwards. `problems`: what is wrong with its message besides.

        Raises InvalidArgument naming every field at fault, and (UNKNOWN_SITE), after up to 3 s, for a site that does not exist;
        Conflict (ETAG_MISMATCH) when an etag is given and old, TooLarge (TOO_MANY_RULES)."""
        rule = checked(rule, problems)
        await self._check_sites(rule)
        async with transaction(self._engine) as connection:
            version = await _new_version(connection)
            current = await _etag(connection, rule.rule_id)
            if rule.etag and rule.etag != current:
                raise _changed(rule, current)
            now_us = self._clock.now_us()
            stored = replace(rule, version=version, effective_us=now_us, etag=str(version))
            values = rule_columns(stored)
            entering = insert(RULES).values(values)
            await connection.execute(entering.on_conflict_do_update(index_elements=["rule_id"], set_=values))
            await _check_room(connection)
            if stored.disabled:
                await clear_alerts_of_rule(connection, stored.rule_id, now_us, "rule disabled")
        return stored

    async def delete(self, rule_id: str) -> None:
        """The rule is gone and its open alerts are cleared. Raises NotFound (RULE_NOT_FOUND)."""
        async with transaction(self._engine) as connection:
            await _new_version(connection)
            deleting = RULES.delete().where(RULES.c.rule_id == rule_id).returning(RULES.c.rule_id)
            if (await connection.execute(deleting)).first() is None:
                known = {"rule_id": rule_id[:80]}
                raise NotFound(f"no rule {rule_id[:80]!r}: see ListRules", reason="RULE_NOT_FOUND", metadata=known)
            await clear_alerts_of_rule(connection, rule_id, self._clock.now_us(), "rule deleted")

    async def _check_sites(self, rule: Rule) -> None:
        unknown = await self._sites.unknown(rule.site_ids)
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            problem = f"no site {', '.join(map(repr, unknown[:3]))}{more}: create it first, or see ListSites"
            raise InvalidArgument(f"rule.site_ids: {problem}", reason="UNKNOWN_SITE", fields={"rule.site_ids": problem})


async def _new_version(connection: AsyncConnection) -> int:
    """Makes this transaction's commit a new version of the rule set. From here on other changes wait."""
    return int((await connection.execute(text(_NEW_VERSION))).scalar_one())


async def _etag(connection: AsyncConnection, rule_id: str) -> str:
    """Of the rule as it is; empty: there is none. The lock keeps out who raises alerts of it, until this change is seen."""
    query = select(RULES.c.version).where(RULES.c.rule_id == rule_id).with_for_update()
    version = (await connection.execute(query)).scalar_one_or_none()
    return "" if version is None else str(version)


async def _check_room(connection: AsyncConnection) -> None:
    count, size = (await connection.execute(text(_ROOM))).one()
    if count > MOST_RULES or size > MOST_BYTES:
        most = f"at most {MOST_RULES:,} rules and {MOST_BYTES:,} bytes"
        message = f"{most} are kept, it would be {count:,} and {size:,}: delete some, or name regions instead of sensors"
        raise TooLarge(message, reason="TOO_MANY_RULES")


def _changed(rule: Rule, current: str) -> Conflict:
    state = f"changed by somebody else (etag {current!r}, not {rule.etag[:40]!r})" if current else "deleted"
    message = f"rule {rule.rule_id!r} was {state}: read it again, then change it"
    return Conflict(message, reason="ETAG_MISMATCH", metadata={"etag": current})


_NEW_VERSION = "UPDATE alert.rules_version SET newest = newest + 1 RETURNING newest"

# How many of the next rules fit into a page, and whether others follow.
_FITS = """
SELECT count(*) FILTER (WHERE fits), coalesce(bool_or(NOT fits), false) FROM (
    SELECT place = 1 OR place <= :page AND sum(size) OVER (ORDER BY place) <= :bytes AS fits FROM (
        SELECT row_number() OVER (ORDER BY rule_id) AS place, octet_length(CAST(r AS text)) AS size FROM (
            SELECT * FROM alert.rules WHERE rule_id > :after ORDER BY rule_id LIMIT :most
        ) AS r
    ) AS sized
) AS found
"""

_ROOM = "SELECT count(*), coalesce(sum(octet_length(CAST(r AS text))), 0) FROM alert.rules AS r"
