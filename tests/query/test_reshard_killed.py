"""A resharder that is killed (kill -9) at every step of a move, and of a shard that leaves, is gone on with by the next run."""

from collections.abc import AsyncIterator

import pytest

from mesh.adapters.directory import DirectoryObjects
from query_svc.reshard.retiring import RETIRED
from query_svc.reshard.retiring import STEPS as RETIRING
from query_svc.reshard.steps import NAMES
from tests.conftest import FreshDatabase
from tests.query.resharder import reshard_elsewhere
from tests.query.resharding_mesh import Load, Moving, moving, under_load

EVERY_STEP = [("begun", "noted"), *((name, phase) for name in NAMES for phase in ("begins", "done", "noted"))]
OF_A_SHARD = [(name, phase) for name in RETIRING for phase in ("begins", "done", "noted") if (name, phase) != (RETIRED, "done")]


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Moving]:
    async with moving(fresh_database, shards=2, spare=1, slots=6) as made:
        yield made


def test_the_steps_are_these() -> None:
    """Whoever adds one thinks about a kill before and behind it."""
    before, after = ("prepared", "copied", "followed", "frozen", "completed", "verified", "attached"), ("released", "opened")
    assert (*before, "mapped", *after, "dropped") == NAMES
    assert RETIRING == ("exported", "losers moved", "rolled up", "emptied")


@pytest.mark.timeout(400)
async def test_killed_at_every_step_and_gone_on_with_nothing_is_lost_doubled_or_told_wrong(
    mesh: Moving, objects: DirectoryObjects
) -> None:
    load = Load(mesh, sensors=50, batch=200)
    async with under_load(mesh, load, objects, readers=1, pause_s=0.1) as asking:
        for place in EVERY_STEP:
            assert await reshard_elsewhere(mesh.order(3, kill_at=place)) is None, f"it never came to {place}"
            assert not asking.problems, f"killed at {place}: {asking.problems[0]}"
        report = await reshard_elsewhere(mesh.order(3))
        assert report is not None
        assert report.slots == 2
    assert not asking.problems
    await load.must_be_whole()
    owned = await mesh.shard_rows("SELECT count(*), bool_and(writable) FROM owned_slots")
    assert owned == {shard: [(2, True)] for shard in range(3)}


@pytest.mark.timeout(400)
async def test_killed_at_every_step_of_a_shard_that_leaves_its_counts_are_kept_once(
    mesh: Moving, objects: DirectoryObjects
) -> None:
    load = Load(mesh, sensors=50, batch=200)
    async with under_load(mesh, load, objects, readers=1, pause_s=0.1) as asking:
        assert await reshard_elsewhere(mesh.order(3)) is not None
        for place in OF_A_SHARD:
            assert await reshard_elsewhere(mesh.order(2, kill_at=place)) is None, f"it never came to {place}"
        report = await reshard_elsewhere(mesh.order(2))
        assert report is not None
        assert report.retired == (mesh.names[2],)
    assert not asking.problems
    await load.must_be_whole()
