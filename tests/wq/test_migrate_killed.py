"""`wq migrate` is killed (SIGKILL) at every step and in the middle of one; what was done stays, the next run goes on."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen

import pytest
from sqlalchemy import text

from mesh.adapters.embedded_postgres import EmbeddedPostgres
from mesh.shards import transaction
from tests.house.tree import ROOT
from tests.wq.migrating import SLOTS, Place, a_place, shape
from wq.migrations.history import catalog_history, shard_history

PATIENCE_S = 60


@pytest.fixture
async def place(postgres_server: EmbeddedPostgres) -> AsyncIterator[Place]:
    async with a_place(postgres_server, shard_count=1) as place:
        yield place


@pytest.mark.timeout(300)  # nine processes
async def test_killed_after_every_step_it_goes_on_from_there(place: Place) -> None:
    """Each run is killed as soon as it says that one more step is done, until one has nothing left to do."""
    said: list[str] = []
    while not said or not said[-1].startswith("done"):
        with a_run(place) as process:
            said.append(await next_line(process))
    steps = [f"{place.name}_catalog: {each}" for each in ("made", *catalog_history().revisions)]
    steps += [f"{place.shards[0]}: {each}" for each in ("made", *shard_history().revisions)]
    assert said == [*steps, "done []"]
    assert await place.rows("SELECT count(*) FROM owned_slots", place.shards[0]) == [(SLOTS,)]
    await _is_as_made_in_one_go(place)


async def test_killed_in_the_middle_of_a_revision_nothing_of_it_is_done(place: Place) -> None:
    """It waits for a table that a reader has, with half of the revision behind it."""
    await place.make_the_old_way()
    shard = place.shards[0]
    await place.rows("ALTER TABLE conflicting_readings DROP COLUMN written_by, DROP COLUMN id", shard)
    await place.rows("DROP TABLE restored_objects, owned_slots, sensors_seen", shard)
    async with place.engine(shard) as engine, transaction(engine) as reader:
        await reader.execute(text("SELECT count(*) FROM conflicting_readings"))
        with a_run(place):
            await _until_waiting(place, shard, True)
        await _until_waiting(place, shard, False)
    assert await place.rows("SELECT to_regclass('sensors_seen')", shard) == [(None,)]
    assert not [outcome.problem for outcome in await place.migrate() if outcome.problem]
    await _is_as_made_in_one_go(place)


@contextmanager
def a_run(place: Place) -> Iterator["Popen[str]"]:
    """A process that migrates, killed at the end of the block."""
    words = [place.url(""), *(place.url(shard) for shard in place.shards)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"}
    with Popen([sys.executable, "-c", _PROGRAM, *words], stdout=PIPE, env=environment, cwd=ROOT, text=True) as process:
        yield process
        process.kill()


async def next_line(process: "Popen[str]") -> str:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        return (await asyncio.to_thread(process.stdout.readline)).strip()


async def _until_waiting(place: Place, shard: str, wanted: bool) -> None:
    """Until somebody waits in the shard for a lock, in the middle of a transaction; or nobody any more."""
    query = f"SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{shard}' AND query LIKE '%ALTER TABLE conflicting%'"
    async with asyncio.timeout(PATIENCE_S):
        while (await place.rows(f"{query} AND pid <> pg_backend_pid()"))[0][0] is not wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _is_as_made_in_one_go(place: Place) -> None:
    async with a_place(place.server, len(place.shards)) as other:
        await other.migrate()
        for killed, whole in zip(("", *place.shards), ("", *other.shards), strict=True):
            async with place.engine(killed) as ours, other.engine(whole) as theirs:
                assert await shape(ours) == await shape(theirs)


# Says each step when it is done, and at last the problems.
_PROGRAM = f"""
import asyncio, sys
from mesh.clock import SystemClock
from wq.migrations.deployment import Wanted, migrate_all
catalog, *shards = sys.argv[1:]
names = [url.split("/")[-1].split("?")[0] for url in shards]
wanted = Wanted(lambda address: shards[names.index(address)] if address else catalog, names, {SLOTS}, 0)
done = asyncio.run(migrate_all(wanted, SystemClock(), lambda line: print(line, flush=True)))
print("done", [outcome.problem for outcome in done if outcome.problem], flush=True)
"""
