"""Resharding under a running load: nothing lost, nothing doubled, no query that fails or tells what is not so."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from mesh.adapters.directory import DirectoryObjects
from query_svc.reshard.steps import NAMES
from tests.conftest import FreshDatabase
from tests.query.resharder import Quiet, reshard_elsewhere
from tests.query.resharding_mesh import Load, Moving, moving, under_load

SLOTS = 20


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Moving]:
    async with moving(fresh_database, shards=4, spare=1, slots=SLOTS) as made:
        yield made


async def test_from_4_to_5_shards_and_back_under_load_nothing_is_lost_or_doubled(mesh: Moving, objects: DirectoryObjects) -> None:
    load = Load(mesh)
    async with under_load(mesh, load, objects) as asking:
        grown = await reshard_elsewhere(mesh.order(5))
        assert grown is not None
        assert (grown.slots, len(await mesh.shard_rows("SELECT 1"))) == (4, 5)
        shrunk = await reshard_elsewhere(mesh.order(4))
        assert shrunk is not None
        assert shrunk.slots == 4
    assert not asking.problems
    assert len(asking.seconds) > 10
    assert shrunk.retired == (mesh.names[4],)
    await load.must_be_whole()
    owned = await mesh.shard_rows("SELECT count(*), bool_and(writable) FROM owned_slots")
    assert owned == {shard: [(5, True)] for shard in range(4)}


async def test_a_shard_has_nothing_left_of_a_slot_that_went_away(mesh: Moving, objects: DirectoryObjects) -> None:
    load = Load(mesh)
    async with under_load(mesh, load, objects, readers=0):
        watch = Quiet()
        await mesh.reshard(5, watch)
    now = await mesh.live.newer()
    for shard, rows in (await mesh.shard_rows(LEFT)).items():
        assert {slot for (slot,) in rows} == set(now.slots_of_shard(shard))
    moved = [number for what, number, step, phase in watch.steps if (what, step, phase) == ("slot", "dropped", "noted")]
    assert len(moved) == 4
    steps = Counter(step for what, _, step, phase in watch.steps if what == "slot" and phase == "noted")
    assert steps == dict.fromkeys(NAMES, 4)


LEFT = """
SELECT CAST(substring(inhrelid::regclass::text FROM '_s([0-9]+)$') AS int)
FROM pg_inherits WHERE inhparent = 'sensor_readings'::regclass
UNION SELECT slot FROM owned_slots UNION SELECT slot FROM positions
"""
