"""What is planned, and how far each move has come: tables of the catalog, written by one process at a time.

The lock is that of a session, and everything is written by this session: who has lost the lock can write nothing more.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.errors import Conflict, PositionLost, Unavailable
from mesh.shard_map import change_map
from query_svc.reshard.plan import Move

PLANNED = "planned"


@dataclass(frozen=True, slots=True)
class State:
    """How far a move (or the retirement of a shard) has come: its last step, and what is known of it. `mark`: see copying.py.
    `freeze_us`, `cut_us`: since when the slot is not written, and two shards answer for it; once it is opened, for how long."""

    step: str = PLANNED
    mark: int = 0
    row_count: int = 0
    checksum: str = ""
    copied_bytes: int = 0
    freeze_us: int = 0
    cut_us: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A resharding to `wanted` shards that has begun and not ended. `retiring`: shards that leave, and how far that has come."""

    number: int
    wanted: int
    added: Sequence[int]
    moves: Mapping[Move, State]
    retiring: Mapping[int, str]


class Journal:
    """The tables reshardings, slot_moves and shard_retirements. Every method is one transaction, durable on return; each raises
    Unavailable when the catalog, and with it the lock, is lost."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def open_plan(self) -> Plan | None:
        """The plan that has not ended; None: there is none."""
        async with self._transaction() as connection:
            return await read_open_plan(connection)

    async def begin(self, wanted: int, moves: Sequence[Move], addresses: Mapping[int, str], retiring: Sequence[int]) -> None:
        """The plan is open; the shards of these addresses are in the map, and have no slots yet."""
        slots = {"slots": [m.slot for m in moves], "sources": [m.source for m in moves], "targets": [m.target for m in moves]}
        shards = {"shards": list(addresses), "addresses": list(addresses.values())}
        async with self._transaction() as connection:
            if addresses:
                await connection.execute(text(_ADD_SHARDS), shards)
                await change_map(connection)
            number = (await connection.execute(text(_BEGIN), {"wanted": wanted, "added": list(addresses)})).scalar_one()
            await connection.execute(text(_ADD_MOVES), {"number": number, **slots})
            await connection.execute(text(_ADD_RETIRING), {"number": number, "shards": list(retiring)})

    async def passed(self, plan: Plan, move: Move, before: State, after: State, *, maps: bool = False) -> None:
        """The move has come from one state to the next; `maps`: the slot is the target's by a new version of the map, in the
        same transaction. Raises PositionLost when it was not in the state before."""
        place = {"number": plan.number, "slot": move.slot, "before": before.step}
        facts = {"step": after.step, "mark": str(after.mark), "rows": after.row_count, "checksum": after.checksum}
        facts |= {"bytes": after.copied_bytes, "freeze_us": after.freeze_us, "cut_us": after.cut_us}
        async with self._transaction() as connection:
            if (await connection.execute(text(_PASS), place | facts)).rowcount != 1:
                raise PositionLost(
                    f"the move of slot {move.slot} is not {before.step} any more: another wq reshard went on with it"
                )
            if maps:
                await change_map(connection, {move.slot: (move.source, move.target)})

    async def retired(self, plan: Plan, shard: int, before: str, after: str) -> None:
        """As `passed`, of a shard that leaves."""
        async with self._transaction() as connection:
            await self.retire_in(connection, plan, shard, before, after)

    async def retire_in(self, connection: AsyncConnection, plan: Plan, shard: int, before: str, after: str) -> None:
        """The same in a transaction that is open."""
        place = {"number": plan.number, "shard": shard, "before": before, "step": after}
        if (await connection.execute(text(_RETIRE), place)).rowcount != 1:
            raise PositionLost(f"shard {shard} is not {before} any more: another wq reshard went on with it")

    async def add_retiring(self, plan: Plan, shards: Sequence[int]) -> None:
        """These leave too."""
        async with self._transaction() as connection:
            await connection.execute(text(_ADD_RETIRING), {"number": plan.number, "shards": list(shards)})

    async def drop_move(self, plan: Plan, move: Move) -> None:
        """The move is no longer planned."""
        async with self._transaction() as connection:
            await connection.execute(text(_DROP_MOVE), {"number": plan.number, "slot": move.slot})

    async def end(self, plan: Plan, *, aborted: bool = False) -> None:
        """The plan is no longer open."""
        async with self._transaction() as connection:
            await connection.execute(text(_END), {"number": plan.number, "aborted": aborted})

    def transaction(self) -> Any:
        """One transaction of the session that has the lock, as `mesh.shards.transaction`."""
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._connection.begin():
                yield self._connection
        except (exc.OperationalError, exc.InterfaceError, exc.InvalidRequestError) as error:
            message = (
                f"the catalog is away, and with it the lock of this wq reshard: {getattr(error, 'orig', error)}; run it again"
            )
            raise Unavailable(message, reason="DATABASE_AWAY") from error


async def read_open_plan(connection: AsyncConnection) -> Plan | None:
    """The plan that has not ended, as anybody may look at it."""
    if (await connection.execute(text("SELECT to_regclass('shard_retirements')"))).scalar_one() is None:
        return None
    found = (await connection.execute(text(_OPEN))).first()
    if found is None:
        return None
    moves = (await connection.execute(text(_MOVES), {"number": found.number})).all()
    leaving = (await connection.execute(text(_RETIRING), {"number": found.number})).all()
    states = {Move(*row[:3]): State(row.step, int(row.mark), *row[5:]) for row in moves}
    return Plan(found.number, found.wanted, tuple(found.added), states, {row.shard: row.step for row in leaving})


@asynccontextmanager
async def open_journal(catalog: AsyncEngine) -> AsyncIterator[Journal]:
    """The tables are there, and nobody else has them open until the block is left, or the process is killed. Raises Conflict
    (RESHARDING) when somebody has."""
    try:
        async with catalog.connect() as connection:
            if not (await connection.execute(text(_LOCK))).scalar_one():
                raise Conflict("another wq reshard is running on this catalog: let it end, or stop it", reason="RESHARDING")
            for statement in _TABLES:
                await connection.execute(text(statement))
            await connection.commit()
            try:
                yield Journal(connection)
            finally:
                await connection.invalidate()  # a connection that went back to the pool would keep the lock
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        raise Unavailable(f"the catalog is away: {getattr(error, 'orig', error)}", reason="DATABASE_AWAY") from error


_LOCK = "SELECT pg_try_advisory_lock(hashtext('query_svc.reshard'))"

_TABLES = (
    """
CREATE TABLE IF NOT EXISTS reshardings (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, wanted int NOT NULL, added int[] NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz, aborted boolean NOT NULL DEFAULT false)
""",
    "CREATE UNIQUE INDEX IF NOT EXISTS reshardings_one_open ON reshardings ((true)) WHERE ended_at IS NULL",
    """
CREATE TABLE IF NOT EXISTS slot_moves (
    number bigint NOT NULL REFERENCES reshardings, place int NOT NULL,
    slot int NOT NULL, source int NOT NULL, target int NOT NULL,
    step text NOT NULL, mark xid8 NOT NULL, row_count bigint NOT NULL, checksum text NOT NULL, copied_bytes bigint NOT NULL,
    freeze_us bigint NOT NULL, cut_us bigint NOT NULL, changed_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (number, slot))
""",
    """
CREATE TABLE IF NOT EXISTS shard_retirements (
    number bigint NOT NULL REFERENCES reshardings, shard int NOT NULL, step text NOT NULL, PRIMARY KEY (number, shard))
""",
    # What shards counted that have left; see retire.py.
    """
CREATE TABLE IF NOT EXISTS restored_objects (path text COLLATE "C" PRIMARY KEY, stored bigint NOT NULL, known bigint NOT NULL)
""",
)

_OPEN = "SELECT number, wanted, added FROM reshardings WHERE ended_at IS NULL"

_MOVES = """
SELECT slot, source, target, step, CAST(mark AS text) AS mark, row_count, checksum, copied_bytes, freeze_us, cut_us
FROM slot_moves WHERE number = :number ORDER BY place
"""

_RETIRING = "SELECT shard, step FROM shard_retirements WHERE number = :number ORDER BY shard"

_ADD_SHARDS = """
INSERT INTO shards (shard, address) SELECT * FROM unnest(CAST(:shards AS int[]), CAST(:addresses AS text[]))
ON CONFLICT (shard) DO UPDATE SET retired = false
"""

_BEGIN = "INSERT INTO reshardings (wanted, added) VALUES (:wanted, CAST(:added AS int[])) RETURNING number"

_ADD_MOVES = f"""
INSERT INTO slot_moves (number, slot, source, target, place, step, mark, row_count, checksum, copied_bytes, freeze_us, cut_us)
SELECT :number, m.*, '{PLANNED}', '0', 0, '', 0, 0, 0
FROM unnest(CAST(:slots AS int[]), CAST(:sources AS int[]), CAST(:targets AS int[])) WITH ORDINALITY AS m
"""

_ADD_RETIRING = f"""
INSERT INTO shard_retirements (number, shard, step) SELECT :number, unnest(CAST(:shards AS int[])), '{PLANNED}'
ON CONFLICT DO NOTHING
"""

_PASS = """
UPDATE slot_moves SET step = :step, mark = CAST(CAST(:mark AS text) AS xid8), row_count = :rows, checksum = :checksum,
                      copied_bytes = :bytes, freeze_us = :freeze_us, cut_us = :cut_us, changed_at = clock_timestamp()
WHERE number = :number AND slot = :slot AND step = :before
"""

_RETIRE = "UPDATE shard_retirements SET step = :step WHERE number = :number AND shard = :shard AND step = :before"

_DROP_MOVE = "DELETE FROM slot_moves WHERE number = :number AND slot = :slot"

_END = "UPDATE reshardings SET ended_at = clock_timestamp(), aborted = :aborted WHERE number = :number"
