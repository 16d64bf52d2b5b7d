"""Which revisions are there, at which one is a database, and what brings it to the newest?

Alembic finds and orders the revisions and notes each in the table `schema_version`, in the transaction of its change. Unlike in
its own command a revision is given its connection, so that several databases are migrated at a time in one process.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

VERSION_TABLE = "schema_version"


class History:
    """The revisions in the modules of one folder. Each has `revision`, `down_revision` (the one before, or None) and
    `upgrade(connection)`, which runs in one transaction and commits nothing itself."""

    def __init__(self, folder: Path) -> None:
        self._scripts = ScriptDirectory(str(folder), version_locations=[str(folder)])
        newest_first = [script.revision for script in self._scripts.walk_revisions()]
        self.revisions: Sequence[str] = newest_first[::-1]

    @property
    def newest(self) -> str:
        """The revision that this version of the program needs."""
        return self.revisions[-1]

    def problem(self, name: str, found: str) -> str:
        """Why this program does not work with a database at revision `found` (empty: never migrated), and the mend; empty: it
        does."""
        if found == self.newest:
            return ""
        if found and found not in self.revisions:
            return f"{name} is at revision {found}, which this version does not know: a newer one has migrated it, use that one"
        return f"{name} is at revision {found or 'none'}, this version needs {self.newest}: run wq migrate"

    def found(self, connection: Connection) -> str:
        """The revision that the database is at; empty: none."""
        return self._context(connection, None).get_current_revision() or ""

    def upgrade(self, connection: Connection, tell: Callable[[str], None]) -> None:
        """Brings the database to the newest revision, one transaction each; `tell` is told each that is done. The connection is
        in no transaction, before and after."""

        def steps(heads: Any, _: MigrationContext) -> Iterator[RevisionStep]:
            for step in self._scripts._upgrade_revs("head", heads):
                yield step
                tell(str(step.to_revisions_no_deps[0]))  # the next one is asked for when this one is committed

        context = self._context(connection, steps)
        context.run_migrations(connection=connection)
        connection.commit()

    def _context(
        self, connection: Connection, steps: Callable[[Any, MigrationContext], Iterable[RevisionStep]] | None
    ) -> MigrationContext:
        options = {"version_table": VERSION_TABLE, "transaction_per_migration": True, "fn": steps}
        return MigrationContext.configure(connection=connection, opts=options)


@cache
def catalog_history() -> History:
    """Of the catalog database."""
    return History(Path(__file__).with_name("catalog"))


@cache
def shard_history() -> History:
    """Of every shard."""
    return History(Path(__file__).with_name("shard"))
