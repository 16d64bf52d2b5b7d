"""Is a slot the same at two shards? A count and a sum over all its columns, for which the order of the rows is of no account."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from query_svc.reshard.copying import LONG_STATEMENT, columns_of

SEED = 1  # with 0, absent values and zeroes would be the same


class Sum(NamedTuple):
    """Of all rows of a table."""

    rows: int
    checksum: str


async def sum_of(connection: AsyncConnection, table: str, columns: Sequence[str], where: str = "true") -> Sum:
    """PostgreSQL's own hash of each row (hash_record_extended, 64 bits), added up: some 5 M rows a second. Two rows that differ
    in a value have the same hash once in 2**64; 0.0 and -0.0 are equal, as they are to PostgreSQL."""
    await connection.execute(text(LONG_STATEMENT))
    row = ", ".join(f'r."{name}"' for name in columns)
    found = await connection.execute(
        text(f"SELECT count(*), coalesce(sum(hash_record_extended(ROW({row}), {SEED})), 0)::text FROM {table} AS r WHERE {where}")
    )
    return Sum(*found.one())


async def sums_of_both(source: AsyncConnection, target: AsyncConnection, tables: tuple[str, str], where: str) -> tuple[Sum, Sum]:
    """At the source and at the target, at once; of the columns that the table has at the source, in public."""
    columns = await columns_of(source, tables[0])
    async with asyncio.TaskGroup() as group:
        here = group.create_task(sum_of(source, f"public.{tables[0]}", columns, where))
        there = group.create_task(sum_of(target, tables[1], columns, where))
    return here.result(), there.result()
