"""What is the whole rule set in its newest version, as a context?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc.rule_tables import RULES, rule_of
from mesh.codec.log_records import ContextKind
from mesh.codec.rules import write_rules_context
from mesh.context import Context
from mesh.shards import transaction


class RulesOwner:
    """Owner of the rules context (mesh.context.Owner): versions are commits in the catalog database. Disabled rules are in it,
    so that who reads the context can tell them from deleted ones."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def unpublished(self) -> AsyncIterator[Context | None]:
        """Takes an advisory lock and holds it, and one connection, until the block is left."""
        async with transaction(self._engine) as connection:
            ours = (await connection.execute(text(_LOCK))).scalar_one()
            pending = ours and (await connection.execute(text(_PENDING))).scalar_one()
            context = await self._newest() if pending else None
            yield context
            if context is not None:
                await connection.execute(text(_MARK), {"version": context.version})

    async def _newest(self) -> Context:
        """One snapshot, so that the content is exactly that of the version."""
        async with transaction(self._engine) as connection:
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            version = (await connection.execute(text("SELECT newest FROM alert.rules_version"))).scalar_one()
            rules = map(rule_of, await connection.execute(select(RULES).order_by(RULES.c.rule_id)))
            return Context(ContextKind.RULES, version, write_rules_context(rules))


_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('alert.rules_context'))"
_PENDING = "SELECT published < newest FROM alert.rules_version"
_MARK = "UPDATE alert.rules_version SET published = greatest(published, :version)"
