"""The plan of a resharding: as few slots as possible move, and every shard ends with as many as the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import text

from mesh.errors import InvalidArgument
from mesh.shard_map import slot_sql
from mesh.shards import open_engine, slot_of, spread_owner, transaction
from query_svc.reshard.plan import Move, plan_moves, shards_after
from tests.conftest import FreshDatabase


def owners_after(owner: NDArray[np.int64], moves: list[Move]) -> list[int]:
    owners: list[int] = owner.tolist()
    for move in moves:
        assert owners[move.slot] == move.source
        owners[move.slot] = move.target
    return owners


def test_from_32_to_40_shards_a_fifth_of_the_slots_moves_and_back_again() -> None:
    owner = spread_owner(320, 32)
    there = plan_moves(owner, range(40))
    assert len(there) == 64
    grown = np.array(owners_after(owner, there), np.int64)
    assert set(np.bincount(grown).tolist()) == {8}
    back = plan_moves(grown, range(32))
    assert len(back) == 64
    assert {move.source for move in back} == set(range(32, 40))
    assert set(np.bincount(owners_after(grown, back)).tolist()) == {10}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=64), st.sets(st.integers(0, 12), min_size=1))
def test_every_shard_ends_with_equal_counts_by_the_fewest_moves_that_do_it(owners: list[int], after: set[int]) -> None:
    owner = np.array(owners, np.int64)
    if len(after) > len(owner):
        with pytest.raises(InvalidArgument, match="from 1 to"):
            plan_moves(owner, sorted(after))
        return
    moves = plan_moves(owner, sorted(after))
    ended = owners_after(owner, moves)
    counts = [ended.count(shard) for shard in after]
    assert sum(counts) == len(owner)
    assert max(counts) - min(counts) <= 1
    had = sorted((owners.count(shard) for shard in after), reverse=True)
    each, more = divmod(len(owner), len(after))
    best = sorted(([each + 1] * more + [each] * (len(after) - more)), reverse=True)
    assert len(moves) == len(owner) - sum(map(min, had, best))
    assert len({move.slot for move in moves}) == len(moves)


def test_sources_take_turns() -> None:
    moves = plan_moves(spread_owner(320, 32), range(40))
    assert [move.source for move in moves[:33]] == [*range(32), 0]


def test_the_shards_with_the_highest_numbers_leave() -> None:
    assert shards_after((0, 1, 2, 3, 5), (), 3) == [0, 1, 2]
    assert shards_after((0, 1, 3), (2, 4), 5) == [0, 1, 2, 3, 4]


async def test_the_slot_in_sql_is_the_slot(fresh_database: FreshDatabase) -> None:
    random = np.random.default_rng(11)
    drawn = random.integers(-(2**63), 2**63 - 1, 20_000, dtype=np.int64, endpoint=True)
    sensors = np.concatenate([drawn, np.arange(-1_000, 1_000), np.array([-(2**63), 2**63 - 1], np.int64)])
    engine = open_engine(await fresh_database(), 1)
    async with transaction(engine) as connection:
        for slots in (2, 7, 8, 320, 4096):
            asked = f"SELECT {slot_sql(slots, 's')} FROM unnest(CAST(:s AS bigint[])) WITH ORDINALITY AS u (s, n) ORDER BY n"
            found = (await connection.execute(text(asked), {"s": sensors.tolist()})).scalars().all()
            assert found == slot_of(sensors, slots).tolist()
    await engine.dispose()
