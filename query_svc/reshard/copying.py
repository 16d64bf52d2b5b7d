"""How do the rows of a slot come to another shard while recorders go on writing it, and how is it known that none is missing?

Rows are only ever inserted (law 5: the first of a key stays). The copy is made in one snapshot of the source; `mark` is the xmin
of that snapshot: every transaction below it had ended. A row that the snapshot does not show, and that is committed later, was
written

- by a transaction that began after the snapshot: its id, and those of its savepoints, are above all that the snapshot knew; or
- by one that was running when it was taken: its id is at least `mark`, and the ids of its savepoints, which are drawn after its
  own, are greater still (recorders COPY inside savepoints, and the running ones are not listed in a snapshot when there are
  many: so the ids are compared with `mark` alone, and pg_visible_in_snapshot is not asked).

So whatever is missing has xmin >= mark. What has xmin >= mark and is not missing (written by a short transaction beside a long
one) is copied a second time, and its key is there. `age(xmin) <= age(mark)` compares modulo 2**32, as PostgreSQL does: xmin of a
tuple is what it was written with also when the tuple was frozen since (only a flag tells that), and a row newer than the mark is
less than 2**31 transactions old, because a mark may not get older than that (MOST_BEHIND). An ancient row may look newer by
chance after its counter went round: then it is copied a second time, and its key is there.
"""

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection as Driver
from psycopg import generators, pq, waiting
from psycopg.sql import SQL, Identifier
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import Fault, Unavailable
from query_svc.reshard.slot_tables import INCOMING
from query_svc.reshard.throttle import Throttle

PIECE_BYTES = 128 * 1024
STALLED_S = 600.0
"""A scan of a large leaf may have nothing to show for that long."""
MOST_BEHIND = 2**30
LONG_STATEMENT = "SET LOCAL statement_timeout = '12h'"
Told = Callable[[int], None]


async def begin_snapshot(connection: AsyncConnection) -> int:
    """This transaction sees what is there now, to its end. The mark of that."""
    await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    await connection.execute(text(LONG_STATEMENT))
    return int((await connection.execute(text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))).scalar_one())


async def must_be_near(connection: AsyncConnection, mark: int) -> None:
    """Raises Unavailable (MARK_TOO_OLD) when 2**30 transactions have passed since: the copy must begin again."""
    found = await connection.execute(text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
    if int(found.scalar_one()) - mark > MOST_BEHIND:
        raise Unavailable("too many transactions since the copy: it begins again", reason="MARK_TOO_OLD")


async def copy_leaf(
    source: AsyncConnection, target: AsyncConnection, leaf: str, mark: int | None, throttle: Throttle, told: Told
) -> tuple[int, int]:
    """Copies the rows of a leaf into the leaf of the same name in `incoming`, in the transactions that are open: all of them into
    an empty one, or those that are new since the mark into `follow_rows` (see `take_in`). Rows and bytes; memory is bounded."""
    names = await columns_of(source, leaf)
    since = SQL(" WHERE age(xmin) <= age({}::xid)").format(f"{mark & 0xFFFFFFFF}") if mark is not None else SQL("")
    listed = SQL(", ").join(map(Identifier, names))
    query = SQL("SELECT {} FROM public.{}").format(listed, Identifier(leaf)) + since
    into = SQL("{}.{}").format(Identifier(INCOMING), Identifier(leaf)) if mark is None else SQL("follow_rows")
    return await copy_query(source, query, target, into, names, throttle, told)


async def take_in(target: AsyncConnection, slot_root: str) -> int:
    """The rows of `follow_rows` are in the slot, each in its leaf, those whose keys were there left out; how many were not."""
    done = await target.execute(text(f"INSERT INTO {INCOMING}.{slot_root} SELECT * FROM follow_rows ON CONFLICT DO NOTHING"))
    await target.execute(text("DROP TABLE follow_rows"))
    return int(done.rowcount)


async def make_follow_rows(target: AsyncConnection, slot_root: str) -> None:
    """An empty table of this session for rows that may be there already."""
    await target.execute(text(f"CREATE TEMP TABLE follow_rows (LIKE {INCOMING}.{slot_root}) ON COMMIT DROP"))


async def columns_of(connection: AsyncConnection, table: str) -> list[str]:
    """The columns of a table in public, in its order."""
    return list((await connection.execute(text(_COLUMNS), {"table": f"public.{table}"})).scalars())


async def copy_query(
    source: AsyncConnection,
    query: Any,
    target: AsyncConnection,
    into: Any,
    columns: Sequence[str],
    throttle: Throttle,
    told: Told,
) -> tuple[int, int]:
    """Copies what the query selects at the source into these columns of a table of the target; rows and bytes."""
    out, back = await driver_of(source), await driver_of(target)
    statement = SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query).as_bytes(out)
    put = SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(into, SQL(", ").join(map(Identifier, columns)))
    copied = 0
    try:
        async with asyncio.timeout(STALLED_S) as deadline, back.cursor() as cursor:
            async with out.lock, cursor.copy(put) as copy:
                await out.wait(_begin(out.pgconn, statement))
                ended = False
                while not ended:
                    piece, ended = await out.wait(_piece(out.pgconn))
                    await copy.write(piece)
                    copied += len(piece)
                    told(len(piece))
                    await throttle.spend(len(piece))
                    deadline.reschedule(asyncio.get_running_loop().time() + STALLED_S)
                await out.wait(_end(out.pgconn))
            return cursor.rowcount, copied
    except BaseException as error:
        await source.invalidate()  # it is in the middle of a COPY
        if isinstance(error, TimeoutError | psycopg.OperationalError | psycopg.InterfaceError):
            raise _away(error) from error
        raise


def _away(error: BaseException) -> Unavailable:
    what = f"no progress for {STALLED_S:g} s" if isinstance(error, TimeoutError) else str(error)
    return Unavailable(f"a database is away while rows are copied: {what}", reason="DATABASE_AWAY")


async def driver_of(connection: AsyncConnection) -> Driver[Any]:
    """The psycopg connection below, in the same transaction."""
    raw = (await connection.get_raw_connection()).driver_connection
    if not isinstance(raw, Driver):
        raise Fault("COPY needs psycopg: use postgresql+psycopg://")
    return raw


def _begin(connection: Any, statement: bytes) -> Generator[waiting.Wait, waiting.Ready | int, None]:
    connection.send_query(statement)
    for result in (yield from generators.execute(connection)):
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)


def _piece(connection: Any) -> Generator[waiting.Wait, waiting.Ready | int, tuple[bytearray, bool]]:
    """The next rows, about 128 KiB of them, and whether they are the last. The loop runs once per row, hence its form."""
    content = bytearray()
    while len(content) < PIECE_BYTES:
        size, row = connection.get_copy_data(1)
        if size > 0:
            content += row
        elif size < 0:
            return content, True
        else:
            while not (yield waiting.Wait.R):
                continue
            connection.consume_input()
    return content, False


def _end(connection: Any) -> Generator[waiting.Wait, waiting.Ready | int, None]:
    for result in (yield from generators.fetch_many(connection)):
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)


_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped
  AND attgenerated = '' ORDER BY attnum
"""
