"""Which slot and shard a sensor belongs to, and how all shards are asked at once with a limit.

A slot is one of PostgreSQL's own hash partitions of sensor_readings: the slot of a sensor is computed here with PostgreSQL's
hash of a bigint (hashint8extended with the partitioning seed, src/backend/access/hash/hashfunc.c and
src/common/hashfn.c; combined as in compute_partition_hash_value, src/backend/partitioning/partbounds.c).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mesh.deadline import within
from mesh.errors import InvalidArgument, Unavailable, WaterError

MOST_AT_ONCE = 8
CONNECT_TIMEOUT_S = 10
POOL_TIMEOUT_S = 30
STATEMENT_TIMEOUT_S = 60
READ_ONLY = "25006"  # read_only_sql_transaction
LEFT_IDLE = "25P03"  # idle_in_transaction_session_timeout: see `hold` in mesh/shard_map.py
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, psycopg.OperationalError, psycopg.InterfaceError)
_Answer = TypeVar("_Answer")


def open_engine(url: str, pool_size: int, *, ping: bool = True) -> AsyncEngine:
    """An engine for `postgresql+psycopg://...` that opens nothing yet, and never more than `pool_size` connections. A
    connection that died in the pool is replaced before use, which costs a round trip (`ping`), else after its first error. A
    connection is waited for up to 30 s, a statement, also for a lock, up to 60 s, and a machine that is gone is noticed within
    20 s."""
    options = f"-c statement_timeout={round(STATEMENT_TIMEOUT_S * 1000)}"
    gone = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=ping,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "options": options, **gone},
    )


@asynccontextmanager
async def transaction(engine: AsyncEngine, within_s: float | None = None) -> AsyncIterator[AsyncConnection]:
    """One transaction (READ COMMITTED), committed at the end of the block and rolled back by any exception. Raises
    Unavailable when the database is away, stops, or gives up on us (deadlock, no connection free), InvalidArgument for a text
    with a NUL character, which no text of PostgreSQL can hold. `within_s`: for all of it, connecting and committing too; then
    Unavailable, and whether it was committed is not known."""
    try:
        async with within(within_s) if within_s else nullcontext(), engine.begin() as connection:
            yield connection
    except TimeoutError as error:
        if within_s is None:
            raise
        name = engine.url.database
        raise Unavailable(f"database {name} is away: no answer within {within_s:g} s", reason="DATABASE_AWAY") from error
    except _AWAY as error:
        name = engine.url.database
        raise Unavailable(f"database {name} is away: {getattr(error, 'orig', error)}", reason="DATABASE_AWAY") from error
    except exc.InternalError as error:
        state, name = getattr(error.orig, "sqlstate", None), engine.url.database
        if state == READ_ONLY:  # a standby, or a server that was told so
            raise Unavailable(f"database {name} takes no writes: {error.orig}", reason="DATABASE_AWAY") from error
        if state == LEFT_IDLE:
            raise Unavailable(f"database {name} is away: {error.orig}", reason="DATABASE_AWAY") from error
        raise
    except exc.DataError as error:
        if getattr(error.orig, "sqlstate", None) is None:  # psycopg's own: it was never sent
            raise InvalidArgument(f"a text that cannot be stored or found: {error.orig}") from error
        raise


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """One version of the map slot -> shard, and an engine per shard by its number. `owner` has one shard number per slot. Never
    changes: a piece of work takes one (`now`) and keeps to it."""

    owner: NDArray[np.int64]
    engines: Mapping[int, AsyncEngine]
    version: int = 0

    @property
    def now(self) -> "Shards":
        """A map that never changes is its own newest version: see LiveShards in mesh/shard_map.py for the other kind."""
        return self

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return len(self.owner)

    @property
    def owning(self) -> list[int]:
        """The numbers of the shards that own any slot, ascending."""
        return [int(shard) for shard in np.unique(self.owner)]

    def of(self, sensor_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shard number of each sensor."""
        return self.owner[slot_of(sensor_id, self.slots)]

    def slots_of_shard(self, shard: int) -> list[int]:
        """The slots that a shard owns, ascending."""
        return np.flatnonzero(self.owner == shard).tolist()

    async def newer(self) -> "Shards":
        """For a caller that found a slot not where the map says: see LiveShards.newer. This map has no newer version."""
        return self

    async def gather(
        self, read: Callable[[int, AsyncEngine], Awaitable[_Answer]], shards: Iterable[int] | None = None
    ) -> list[_Answer]:
        """`read` of each shard (all, or those named), in the order named, at most 8 at a time. The first error cancels the
        others and is raised as it is, a WaterError before any other."""
        limit = asyncio.Semaphore(MOST_AT_ONCE)

        async def one(shard: int) -> _Answer:
            async with limit:
                return await read(shard, self.engines[shard])

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(shard)) for shard in (self.engines if shards is None else shards)]
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors
        return [task.result() for task in tasks]


class AnyShards(Protocol):
    """Shards whose map may change: LiveShards, or one Shards that stays."""

    @property
    def now(self) -> Shards:
        """The newest version that is known here."""

    async def newer(self) -> Shards:
        """Asks for a newer version than `now`; the newest there is, which may be the same."""


def spread(slots: int, engines: Sequence[AsyncEngine]) -> Shards:
    """The map of a new deployment: slots in equal, contiguous runs, one run per shard."""
    return Shards(spread_owner(slots, len(engines)), dict(enumerate(engines)))


def spread_owner(slots: int, shard_count: int) -> NDArray[np.int64]:
    """The shard number of each slot in a new deployment."""
    return np.arange(slots, dtype=np.int64) * shard_count // slots


def slot_of(sensor_id: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    """The hash partition (remainder, with `slots` as modulus) in which PostgreSQL puts each bigint. About 14 M a second."""
    unsigned = np.ascontiguousarray(sensor_id, np.int64).view(np.uint64)
    low = (unsigned & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    high = (unsigned >> np.uint64(32)).astype(np.uint32)
    folded = low ^ np.where(sensor_id >= 0, high, ~high)
    combined = _hash_uint32_extended(folded) + np.uint64(COMBINE)
    return (combined % np.uint64(slots)).astype(np.int64)


_U = np.uint32
HASH_SEED = 0x7A5B22367996DCFD  # HASH_PARTITION_SEED, src/include/catalog/partition.h
COMBINE = 0x49A0F4DD15E5A8E3  # hash_combine64 with 0, src/include/common/hashfn.h
_START = (0x9E3779B9 + 4 + 3923095) & 0xFFFFFFFF


def _rotate(x: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (x << _U(bits)) | (x >> _U(32 - bits))


def _hash_uint32_extended(key: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """hash_bytes_uint32_extended with HASH_PARTITION_SEED; array arithmetic wraps at 32 bits, as the C does."""
    a = np.array([(_START + (HASH_SEED >> 32)) & 0xFFFFFFFF], _U)
    b = np.array([(_START + (HASH_SEED & 0xFFFFFFFF)) & 0xFFFFFFFF], _U)
    c = np.array([_START], _U)
    for shift_a, shift_b, shift_c in ((4, 6, 8), (16, 19, 4)):
        a = (a - c) ^ _rotate(c, shift_a)
        c = c + b
        b = (b - a) ^ _rotate(a, shift_b)
        a = a + c
        c = (c - b) ^ _rotate(b, shift_c)
        b = b + a
    a = a + key
    c = (c ^ b) - _rotate(b, 14)
    a = (a ^ c) - _rotate(c, 11)
    b = (b ^ a) - _rotate(a, 25)
    c = (c ^ b) - _rotate(b, 16)
    a = (a ^ c) - _rotate(c, 4)
    b = (b ^ a) - _rotate(a, 14)
    c = (c ^ b) - _rotate(b, 24)
    return (b.astype(np.uint64) << np.uint64(32)) | c.astype(np.uint64)


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to show for a group that failed together: a WaterError before any other."""
    ours = errors.subgroup(WaterError)
    found: BaseException = ours or errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
