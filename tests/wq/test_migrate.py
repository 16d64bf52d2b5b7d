"""Migrations: a new deployment, one that is older than migrations, twice, two hosts at once, and whatever stands in the way."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.embedded_postgres import EmbeddedPostgres
from mesh.shard_map import read_map
from mesh.shards import transaction
from tests.wq.migrating import SLOTS, Place, a_place, shape, until
from wq.migrations.deployment import Wanted
from wq.migrations.history import catalog_history, shard_history
from wq.migrations.one_database import migrate_database


@pytest.fixture
async def place(postgres_server: EmbeddedPostgres) -> AsyncIterator[Place]:
    async with a_place(postgres_server) as place:
        yield place


async def test_a_new_deployment_is_made_from_nothing(place: Place) -> None:
    outcomes = await place.migrate()
    assert [(outcome.found, outcome.now, outcome.problem) for outcome in outcomes] == [
        ("", catalog_history().newest, ""),
        ("", shard_history().newest, ""),
        ("", shard_history().newest, ""),
    ]
    async with place.engine() as catalog:
        found = await read_map(catalog)
    assert found is not None
    assert (found.version, list(found.addresses.values()), len(found.owner)) == (1, place.shards, SLOTS)
    assert await place.rows("SELECT slot FROM owned_slots ORDER BY slot", place.shards[1]) == [(4,), (5,), (6,), (7,)]
    assert await place.rows("SELECT newest FROM alert.rules_version") == [(2,)]
    assert await place.rows("SELECT keep_days FROM deployment") == [(0,)]


async def test_migrations_make_exactly_what_the_services_make_by_themselves(
    place: Place, postgres_server: EmbeddedPostgres
) -> None:
    """A change of a create function without a revision, or the other way round, is found here."""
    async with a_place(postgres_server) as alone:  # wq migrate itself calls the create functions too, for what they put in
        outcome = await migrate_database(alone.url(""), catalog_history(), alone.said.append)
        assert outcome.problem == ""
        await place.make_the_old_way()
        async with alone.engine() as ours, place.engine() as theirs:
            await _must_be_alike(ours, theirs)
        await alone.migrate()
        for migrated, made in zip(alone.shards, place.shards, strict=True):
            async with alone.engine(migrated) as ours, place.engine(made) as theirs:
                await _must_be_alike(ours, theirs)


async def test_a_deployment_from_before_migrations_is_adopted_with_all_that_is_in_it(place: Place) -> None:
    await place.make_the_old_way()
    await _forget_what_is_newer(place)
    await place.rows(_INSERT, place.shards[0])
    await place.rows("INSERT INTO ledger VALUES ('g', 1, 'accepted', 100)")
    before = await place.rows("SELECT * FROM sensor_readings ORDER BY 1, 2", place.shards[0])
    assert before
    assert not [outcome.problem for outcome in await place.migrate() if outcome.problem]
    assert await place.rows("SELECT * FROM sensor_readings ORDER BY 1, 2", place.shards[0]) == before
    assert await place.rows("SELECT slot FROM owned_slots ORDER BY slot", place.shards[0]) == [(0,), (1,), (2,), (3,)]
    assert await place.rows("SELECT count(id) FROM conflicting_readings", place.shards[0]) == [(1,)]
    assert await place.rows("SELECT count(*) FROM days_leaving", place.shards[0]) == [(0,)]
    assert await place.rows("SELECT keep_days FROM deployment") == [(0,)]


async def test_an_older_deployment_keeps_its_readings_for_ever_whatever_the_settings_say(place: Place) -> None:
    await place.make_the_old_way()
    await _forget_what_is_newer(place)
    wanted = Wanted(place.url, place.shards, SLOTS, 30)
    (problem,) = [outcome.problem for outcome in await place.migrate(wanted)]
    assert problem.startswith("keep_days = 30, but this deployment was made with 0: set keep_days = 0, or restore")


async def test_a_second_run_finds_nothing_to_do(place: Place) -> None:
    await place.migrate()
    place.said.clear()
    outcomes = await place.migrate()
    assert all(outcome.found == outcome.now and not outcome.problem for outcome in outcomes)
    assert place.said == []


async def test_two_hosts_at_once_make_one_deployment(place: Place) -> None:
    both = await asyncio.gather(place.migrate(), place.migrate())
    assert [outcome.problem for outcomes in both for outcome in outcomes] == [""] * 6
    done = [line for line in place.said if not line.endswith("waiting")]
    revisions = len(catalog_history().revisions) + 2 * len(shard_history().revisions)
    assert len(done) == len(set(done)) == 3 + revisions


async def test_whoever_comes_second_waits_and_finds_nothing_to_do(place: Place) -> None:
    await place.migrate()
    async with place.engine(place.shards[0]) as engine, engine.connect() as other:
        await other.execute(text("SELECT pg_advisory_lock(hashtext('wq.migrate'))"))
        waiting = asyncio.create_task(place.migrate())
        await until(lambda: f"{place.shards[0]}: another wq migrate is at it, waiting" in place.said)
        await other.execute(text("SELECT pg_advisory_unlock(hashtext('wq.migrate'))"))
        assert not [outcome.problem for outcome in await waiting if outcome.problem]


async def test_a_database_that_fails_keeps_no_other_from_being_migrated(place: Place) -> None:
    await place.make_the_old_way()
    await _forget_what_is_newer(place)
    await place.rows("ALTER TABLE conflicting_readings RENAME COLUMN written_by TO written", place.shards[0])
    _, bad, good = await place.migrate()
    assert bad.problem.startswith(f'{place.shards[0]}: column "id" of relation "conflicting_readings" already exists')
    assert (bad.found, bad.now) == ("", "")
    assert (good.now, good.problem) == (shard_history().newest, "")
    assert await place.rows("SELECT to_regclass('owned_slots') IS NULL", place.shards[0]) == [(True,)]
    await place.rows("ALTER TABLE conflicting_readings RENAME COLUMN written TO written_by", place.shards[0])
    assert not [outcome.problem for outcome in await place.migrate() if outcome.problem]


async def test_a_table_in_use_is_waited_for(place: Place) -> None:
    await place.make_the_old_way()
    await _forget_what_is_newer(place)
    await place.rows("ALTER TABLE conflicting_readings DROP COLUMN written_by, DROP COLUMN id", place.shards[0])
    async with place.engine(place.shards[0]) as engine:
        async with transaction(engine) as reader:
            await reader.execute(text("SELECT count(*) FROM conflicting_readings"))
            migrating = asyncio.create_task(place.migrate())
            await until(lambda: f"{place.shards[0]}: a table is in use, once more" in place.said)
        assert not [outcome.problem for outcome in await migrating if outcome.problem]


async def test_a_database_of_a_newer_version_is_left_alone(place: Place) -> None:
    await place.migrate()
    await place.rows("UPDATE schema_version SET version_num = 's999'", place.shards[1])
    _, _, newer = await place.migrate()
    assert newer.problem == (
        f"{place.shards[1]} is at revision s999, which this version does not know: a newer one has migrated it, use that one"
    )


async def test_a_shard_that_was_lost_is_not_made_anew(place: Place) -> None:
    """An empty one in its place would look as if its readings had never been."""
    await place.migrate()
    await place.rows("INSERT INTO ledger VALUES ('g', 1, 'accepted', 100)")
    lost = place.shards[0]
    await place.rows("DROP TABLE sensor_readings", lost)
    _, missing, _ = await place.migrate()
    assert missing.problem.startswith(f"shard 0, {lost}, is empty, but it has 4 slots and readings were accepted: restore it")


async def test_with_days_to_keep_every_slot_has_history_and_days(postgres_server: EmbeddedPostgres) -> None:
    async with a_place(postgres_server, keep_days=30) as place:
        await place.migrate()
        leaves = await place.rows(
            "SELECT relname FROM pg_class WHERE relname LIKE 'sensor_readings_s4%' AND relkind IN ('r', 'p') ORDER BY 1",
            place.shards[1],
        )
        days = [f"sensor_readings_s4_d202601{day:02}" for day in range(1, 9)]
        assert [name for (name,) in leaves] == ["sensor_readings_s4", *days, "sensor_readings_s4_history"]


async def _must_be_alike(ours: AsyncEngine, theirs: AsyncEngine) -> None:
    wanted = await shape(theirs)
    for what, found in (await shape(ours)).items():
        assert sorted(set(found) ^ set(wanted[what]), key=str) == []
        assert found == wanted[what]


async def _forget_what_is_newer(place: Place) -> None:
    """The databases as they were before the first migration of each kind."""
    await place.rows("DROP TABLE deployment, archive.days, archive.replaced, archive.compactions, slot_moves")
    await place.rows("ALTER TABLE archive.objects DROP COLUMN verified_us")
    await place.rows("ALTER TABLE archive.chunks DROP COLUMN by_json")
    for shard in place.shards:
        await place.rows("DROP TABLE days_leaving", shard)
    await place.rows("DROP TABLE owned_slots", place.shards[0])


_INSERT = """
WITH ours AS (
    INSERT INTO sensor_readings (sensor_id, timestamp, ph_level, region, flags)
    SELECT sensor, now() - minute * interval '1 minute', 7, 'north', 0
    FROM generate_series(1, 1000) AS s (sensor), generate_series(1, 10) AS m (minute)
    WHERE EXISTS (SELECT FROM generate_series(0, 3) AS slot
                  WHERE satisfies_hash_partition(CAST('sensor_readings' AS regclass), 8, slot, CAST(sensor AS bigint))))
INSERT INTO conflicting_readings (sensor_id, timestamp, region, flags, log_id, topic, partition, "offset", index)
VALUES (1, now(), 'north', 0, 'log', 'screened', 0, 1, 0)
"""
