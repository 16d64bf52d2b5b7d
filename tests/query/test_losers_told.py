"""Each shard tells how far the objects of its conflicting readings name all that lost, and nothing that is not so (law 5)."""

import hashlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
from sqlalchemy import text

from mesh.adapters.directory import DirectoryObjects
from mesh.clock import ManualClock
from mesh.codec.conflicts_told import Told, is_told, read_told, told_folder, write_told
from mesh.errors import InvalidArgument
from mesh.ports import Partition
from mesh.shards import Shards, transaction
from mesh.stages import Progress
from mesh.topics import SCREENED
from query_svc.losers_export import LosersExport
from tests.builders import some_readings
from tests.query.deployment import Deployment, FreshDatabase, deployed, record_all, sensors_of_shard
from tests.query.shard_trouble import away
from tests.query.test_losers_export import ONE_LOSER, an_export, exported, other_values


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


async def told(objects: DirectoryObjects) -> dict[int, Told]:
    """What the shards tell; each has one word at a time."""
    found = [read_told(path, await objects.get(path)) async for path in objects.list("manifest/") if is_told(path)]
    by_shard = {one.shard: one for one in found}
    assert len(by_shard) == len(found)
    return by_shard


async def test_each_shard_tells_in_one_object_how_far_its_losers_are_known(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock
) -> None:
    export = an_export(mesh, objects, clock)
    await export.export()
    assert [dict(one.until) for one in (await told(objects)).values()] == [{}, {}]
    readings = some_readings(100, sensors=20)
    for number in range(3):
        await mesh.put(other_values(readings, 1.0 + number), Partition(SCREENED, number))
        await record_all(mesh)
        await export.export()
        found = await told(objects)
        assert {shard: one.until[SCREENED, number] for shard, one in found.items()} == {0: 0, 1: 0}
        assert all(one.shard_count == 2 for one in found.values())
        assert sum(one.line_count for one in found.values()) == number * 100
    before = await told(objects)
    await an_export(mesh, objects, clock).export()
    assert await told(objects) == before


async def test_nothing_is_told_of_a_loser_that_could_not_be_exported_yet(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock
) -> None:
    export = an_export(mesh, objects, clock)
    readings = some_readings(10, sensors=sensors_of_shard(mesh.shards, 0, 5))
    await mesh.put(readings)
    await record_all(mesh)
    await export.export()
    async with mesh.shards.engines[0].connect() as late:
        await late.execute(text("SELECT pg_current_xact_id()"))
        await mesh.put(other_values(readings, 2.0))
        await record_all(mesh)
        assert await export.export() == 0
        assert {shard: one.until[SCREENED, 0] for shard, one in (await told(objects)).items()} == {0: 0, 1: 1}
    assert await export.export() == 10
    assert {shard: one.until[SCREENED, 0] for shard, one in (await told(objects)).items()} == {0: 1, 1: 1}


async def test_a_shard_that_was_lost_and_made_anew_goes_on_behind_its_objects(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock
) -> None:
    readings = some_readings(10, sensors=sensors_of_shard(mesh.shards, 0, 5))
    await mesh.put(readings)
    await mesh.put(other_values(readings, 2.0))
    await record_all(mesh)
    assert await an_export(mesh, objects, clock).export() == 10
    before = await told(objects)
    async with transaction(mesh.shards.engines[0]) as connection:
        await connection.execute(text("TRUNCATE conflicting_readings, conflicts_exported, sensor_readings, positions, ledger"))
        loser = {"sensor": sensors_of_shard(mesh.shards, 0, 1)[0], "log_id": mesh.log.log_id, "offset": 7}
        await connection.execute(text(ONE_LOSER), loser)
    assert await an_export(mesh, objects, clock).export() == 1
    assert len(await exported(objects)) == 11
    paths = [path async for path in objects.list(told_folder(mesh.log.log_id, 0))]
    assert write_told(before[0])[0] in paths, "what was once told stays true"


async def test_what_a_shard_told_that_has_left_the_map_holds_back_no_other(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock
) -> None:
    await mesh.put(some_readings(10, sensors=5))
    await record_all(mesh)
    await an_export(mesh, objects, clock).export()
    assert set(await told(objects)) == {0, 1}
    async with transaction(mesh.shards.engines[0]) as connection:  # the slots of shard 1, 4 to 7, came with their positions
        await connection.execute(text(_COME))
    one = Shards(np.zeros(mesh.shards.slots, np.int64), {0: mesh.shards.engines[0]}, version=7)
    export = LosersExport(one, objects, mesh.log.log_id, clock, Progress("losers_export"))
    await export.export()
    assert {shard: word.shard_count for shard, word in (await told(objects)).items()} == {0: 1}
    assert (await told(objects))[0].until == {(SCREENED, 0): 0}


async def test_no_shard_tells_anything_new_while_another_is_away(
    mesh: Deployment, objects: DirectoryObjects, clock: ManualClock
) -> None:
    """A slot that is behind may come from there to any other shard, and lose there what that one would have told already."""
    export = an_export(mesh, objects, clock)
    await export.export()
    before = await told(objects)
    await mesh.put(some_readings(10, sensors=5))
    await record_all(mesh)
    async with away(mesh.shards.engines[1].url.render_as_string(hide_password=False)):
        await export.export()
        assert await told(objects) == before
    await export.export()
    assert {shard: word.until[SCREENED, 0] for shard, word in (await told(objects)).items()} == {0: 0, 1: 0}


_COME = """
INSERT INTO positions (stage, slot, topic, partition, log_id, "offset", source_offset)
SELECT stage, slot + 4, topic, partition, log_id, "offset", source_offset FROM positions
"""


def test_a_word_of_how_far_is_read_as_it_was_written_and_nothing_else_is() -> None:
    one = Told("log-1", 3, 4, 5, {("screened", 0): 7, ("screened_backfill", 1): 9})
    path, content = write_told(one)
    assert read_told(path, content) == one
    assert one.says_no_more_than(one)
    assert not Told("log-1", 3, 4, 5, {("screened", 2): 0}).says_no_more_than(one)
    forged = [write_bad(bad) for bad in ("[]", "{}", "[" * 100_000, '{"line_count":1,"shard_count":0,"until":[]}', "x")]
    until = '{"line_count":1,"shard_count":1,"until":[["screened",0,"1"]]}'
    for bad_path, bad in ((path, content[:-1]), ("manifest/x.txt", content), write_bad(until), *forged):
        with pytest.raises(InvalidArgument, match="no word"):
            read_told(bad_path, bad)


def write_bad(text: str) -> tuple[str, bytes]:
    content = text.encode()
    return f"{told_folder('log-1', 0)}{hashlib.sha256(content).hexdigest()}.txt", content
