"""A restore gives the same table, whatever interrupts it, and makes what it restored ours (laws 1, 5)."""

import asyncio
import random
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from archive_svc.manifest import Manifest, Wanted
from archive_svc.restore import MOST_RECORD_BYTES, MOST_RECORD_READINGS, Restore
from archive_svc.verify import Verify
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_log import PostgresLog
from mesh.clock import SystemClock
from mesh.codec.restored_records import read_restored
from mesh.errors import FailedPrecondition
from mesh.ports import Partition, Record
from mesh.shards import transaction
from mesh.topics import RESTORED, SCREENED
from query_svc.freshness import Freshness, wait_until_readable
from query_svc.ledger_answer import LedgerAnswer, Question
from tests.archive.restoring import DAY_US, Station, files, random_flags, station
from tests.builders import START_US, some_readings
from tests.query.deployment import FreshDatabase, stored


async def test_the_restored_table_is_the_original_value_by_value(first: Station, second: Station) -> None:
    progress = await second.restore_all("old")
    original = await first.table()
    assert len(original) == 3 * 3 * 600 + 200
    assert await second.table() == original
    assert progress[0].restored_count == 0
    assert progress[0].total_count > len(original), "some readings are in the archive twice"
    assert progress[-1].restored_count == progress[-1].total_count
    assert [one.restored_count for one in progress] == sorted(one.restored_count for one in progress)
    seen = "SELECT sensor_id, region, first_time FROM sensors_seen"
    assert sorted(await second.mesh.rows(seen)) == sorted(await first.mesh.rows(seen))
    assert len(await first.mesh.rows("SELECT 1 FROM conflicting_readings")) > 300


async def test_restored_readings_are_outside_the_ledger_and_not_archived_again(first: Station, second: Station) -> None:
    progress = await second.restore_all("old")
    await second.record_and_archive()
    answer = LedgerAnswer(
        second.mesh.log, second.mesh.catalog, second.mesh.shards, second.mesh.recorded, SystemClock(), archived=True
    )
    page = await answer.page(Question())
    assert (page.entries, page.balanced) == ([], True)
    assert files(second.folder, ".parquet") == [
        second.folder / file.relative_to(first.folder) for file in files(first.folder, ".parquet")
    ]
    objects = await second.mesh.rows("SELECT path, stored + known FROM restored_objects")
    assert {path for path, _ in objects} <= {str(file.relative_to(first.folder)) for file in files(first.folder, ".parquet")}
    assert sum(count for _, count in objects) == progress[-1].restored_count


async def test_what_was_restored_is_ours_to_list_verify_and_restore_again(first: Station, second: Station) -> None:
    await second.restore_all("old")
    ours, theirs = Manifest(second.mesh.catalog), Manifest(first.mesh.catalog)
    rows, _ = await ours.page(Wanted(), 1000, "")
    assert rows == (await theirs.page(Wanted(), 1000, ""))[0]
    assert {row.log_id for row in rows} == {first.mesh.log.log_id}
    checks = [check async for check in Verify(ours, second.objects).run(Wanted())]
    assert [check.damaged for check in checks if check.damaged] == []
    table = await second.table()
    await lose_a_shard(second)
    second.sources.clear()
    await second.restore_all()
    assert await second.table() == table


async def test_our_own_archive_brings_back_a_table_that_was_lost(first: Station) -> None:
    table = await first.table()
    await lose_a_shard(first)
    assert await stored(first.mesh) < len(table)
    await first.restore_all()
    assert await first.table() == table
    await first.restore_all()
    assert await first.table() == table


async def lose_a_shard(one: Station) -> None:
    async with transaction(one.mesh.shards.engines[0]) as connection:
        await connection.execute(text("TRUNCATE sensor_readings, sensors_seen, conflicting_readings"))


class Mortal:
    """A process that is killed in the middle of its nth step: whatever it asks the objects or the Log for is one."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        task = asyncio.current_task()
        if not self.left and task:
            task.cancel()


class MortalObjects(DirectoryObjects):
    def __init__(self, folder: Path, mortal: Mortal) -> None:
        super().__init__(folder)
        self._mortal = mortal

    async def get(self, path: str, limit: int | None = None) -> bytes:
        self._mortal.step()
        return await super().get(path, limit)

    async def put(self, path: str, content: bytes) -> bool:
        created = await super().put(path, content)
        self._mortal.step()
        return created


class MortalLog(PostgresLog):
    def __init__(self, log: PostgresLog, mortal: Mortal) -> None:
        vars(self).update(vars(log))  # the same log, by the same connections
        self._mortal = mortal

    async def append(self, partition: Partition, record: Record) -> "asyncio.Future[int]":
        self._mortal.step()
        return await super().append(partition, record)


@pytest.mark.parametrize("seed", range(6))
async def test_a_restore_that_is_killed_anywhere_and_repeated_gives_the_same_table(
    first: Station, second: Station, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        mortal = Mortal(chance.randrange(1, 150))
        source, own = MortalObjects(first.folder, mortal), MortalObjects(second.folder, mortal)
        log = MortalLog(second.mesh.log, mortal)
        restore = Restore(log, own, {"old": source}, second.mesh.catalog, second.mesh.shards, SystemClock())
        task = asyncio.create_task(_drain(restore))
        with suppress(asyncio.CancelledError):
            await task
        await second.record_restored()
        assert set(await second.table()) <= set(await first.table()), "nothing is invented"
    await second.restore_all("old")
    assert await second.table() == await first.table()


async def _drain(restore: Restore) -> None:
    async for _ in restore.run(Wanted(), "old"):
        pass


async def test_a_caller_who_leaves_stops_the_restore_and_may_repeat_it(first: Station, second: Station) -> None:
    async with aclosing(second.restore().run(Wanted(), "old")) as progress:  # type: ignore[type-var]
        seen = 0
        async for one in progress:
            seen = one.restored_count
            if seen:
                break
    ends = await second.mesh.log.ends((RESTORED,))
    assert sum(span.next for span in ends.values()) > 0
    await second.restore_all("old")
    assert await second.table() == await first.table()


async def test_of_two_restores_at_once_the_second_is_told_to_wait(first: Station, second: Station) -> None:
    async with aclosing(second.restore().run(Wanted(), "old")) as progress:  # type: ignore[type-var]
        await anext(progress)
        with pytest.raises(FailedPrecondition) as refused:
            await anext(second.restore().run(Wanted(), ""))
        assert refused.value.reason == "RESTORE_RUNNING"
    await second.restore_all("old")
    assert await second.table() == await first.table()


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(("south",)),
        Wanted(("south", "west"), START_US - DAY_US, START_US + 10**8),
        Wanted((), START_US + DAY_US // 2 + 7, None),
        Wanted(("nowhere",)),
    ],
)
async def test_only_what_is_wanted_comes_back(first: Station, second: Station, wanted: Wanted) -> None:
    await second.restore_all("old", wanted)
    rows, start_us, end_us = await first.table(), wanted.start_us or 0, wanted.end_us or 2**62
    expected = [
        row for row in rows if (not wanted.regions or row[-1] in wanted.regions) and start_us <= row[1].timestamp() * 1e6 < end_us
    ]
    assert await second.table() == expected
    await second.restore_all("old", replace(wanted, regions=(), start_us=None, end_us=None))
    assert await second.table() == rows


async def test_a_restore_of_another_archive_goes_on_when_the_archive_has_grown(first: Station, second: Station) -> None:
    await second.restore_all("old")
    await first.mesh.put(random_flags(some_readings(300, sensors=[900], start=START_US + 5 * DAY_US), 1))
    await first.record_and_archive()
    await second.restore_all("old")
    assert await second.table() == await first.table()


async def test_records_are_limited_and_a_sensor_keeps_its_partition(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with station(fresh_database, tmp_path / "first") as first, station(fresh_database, tmp_path / "second") as second:
        await first.mesh.put(random_flags(some_readings(45_000, sensors=9, period_s=1.0), 1), Partition(SCREENED, 1))
        await first.record_and_archive()
        second.sources["old"] = first.objects
        progress = [one async for one in second.restore().run(Wanted(), "old")]
        assert progress[-1].restored_count == 45_000
        partitions: dict[int, int] = {}
        for partition, span in (await second.mesh.log.ends((RESTORED,))).items():
            for stored_record in await second.mesh.log.read(partition, span.first, 1000):
                assert len(stored_record.record.value) <= MOST_RECORD_BYTES
                readings = read_restored(stored_record.record.value).readings
                assert len(readings) <= MOST_RECORD_READINGS
                assert all(partitions.setdefault(sensor, partition.number) == partition.number for sensor in readings.sensor_id)
        waiting = wait_until_readable(second.mesh.recorded, second.mesh.log.log_id, Freshness(progress[-1].positions, 30.0))
        await asyncio.gather(waiting, second.record_restored())
        assert await second.table() == await first.table()
