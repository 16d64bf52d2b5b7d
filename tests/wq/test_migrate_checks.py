"""What a process that is to serve is told of its databases: all that is wrong at once, each with the mend."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mesh.adapters.embedded_postgres import EmbeddedPostgres
from mesh.shards import open_engine
from tests.wq.migrating import SLOTS, Place, a_place
from wq.migrations.checks import check_deployment
from wq.migrations.history import catalog_history, shard_history
from wq.migrations.look import look_at_all

CATALOG, SHARD = catalog_history().newest, shard_history().newest


@pytest.fixture
async def place(postgres_server: EmbeddedPostgres) -> AsyncIterator[Place]:
    async with a_place(postgres_server) as place:
        yield place


async def problems(place: Place, slots: int = SLOTS, keep_days: int = 0) -> list[str]:
    async with place.engine() as catalog:
        _, found = await check_deployment(catalog, slots, keep_days, lambda address: open_engine(place.url(address), 1))
        return found


async def test_a_deployment_that_was_migrated_has_no_problem(place: Place) -> None:
    await place.migrate()
    assert await problems(place) == []


async def test_a_catalog_and_shards_that_were_never_migrated_are_named(place: Place) -> None:
    await place.make_the_old_way()
    assert await problems(place) == [
        f"the catalog {place.name}_catalog is at revision none, this version needs {CATALOG}: run wq migrate"
    ]
    await place.rows("DROP TABLE deployment")
    await place.migrate()
    for shard in place.shards:
        await place.rows("DROP TABLE schema_version", shard)
    assert await problems(place) == [
        f"shard {number}, {shard}, is at revision none, this version needs {SHARD}: run wq migrate"
        for number, shard in enumerate(place.shards)
    ]


async def test_a_shard_that_is_ahead_and_one_that_is_behind_are_told_apart(place: Place) -> None:
    await place.migrate()
    await place.rows("UPDATE schema_version SET version_num = 's001'", place.shards[0])
    await place.rows("UPDATE schema_version SET version_num = 's999'", place.shards[1])
    assert await problems(place) == [
        f"shard 0, {place.shards[0]}, is at revision s001, this version needs {SHARD}: run wq migrate",
        f"shard 1, {place.shards[1]}, is at revision s999, which this version does not know: a newer one has migrated it, use"
        " that one",
    ]


async def test_other_settings_than_the_deployments_are_named(place: Place) -> None:
    await place.migrate()
    assert await problems(place, slots=16, keep_days=7) == [
        "slots = 16, but this deployment was made with 8: set slots = 8, or restore into a new deployment",
        "keep_days = 7, but this deployment was made with 0: set keep_days = 0, or restore into a new deployment",
    ]


async def test_shards_with_each_others_addresses_are_named(place: Place) -> None:
    await place.migrate()
    first, second = place.shards
    await place.rows("UPDATE shards SET address = 'x' WHERE shard = 0")
    await place.rows(f"UPDATE shards SET address = '{first}' WHERE shard = 1")
    await place.rows(f"UPDATE shards SET address = '{second}' WHERE shard = 0")
    found = await problems(place)
    assert found[0] == (
        f"shard 0, {second}, has the slots 4, 5, 6, 7 that the map gives to another shard: correct its address in the table"
        " shards of the catalog, or restore it from a backup"
    )
    assert found[1].startswith(f"shard 0, {second}, has not the slots 0, 1, 2, 3 that the map gives it: ")
    assert len(found) == 4


async def test_a_slot_of_another_shard_is_named_but_not_one_that_is_being_moved(place: Place) -> None:
    await place.migrate()
    await place.rows("INSERT INTO owned_slots VALUES (5)", place.shards[0])
    foreign, without = await problems(place)
    assert foreign.startswith(f"shard 0, {place.shards[0]}, has the slot 5 that the map gives to another shard")
    assert without.startswith(f"shard 0, {place.shards[0]}, has no table sensor_readings_s5 for the slot 5")
    await place.rows("INSERT INTO reshardings (wanted, added) VALUES (2, '{}')")
    await place.rows("INSERT INTO slot_moves VALUES (1, 0, 5, 1, 0, 'attached', '0', 0, '', 0, 0, 0)")
    assert await problems(place) == []


async def test_a_shard_of_a_deployment_with_other_slots_is_named(place: Place, postgres_server: EmbeddedPostgres) -> None:
    await place.migrate()
    async with a_place(postgres_server) as other:
        await other.migrate(replace(other.wanted, slots=16))
        await place.rows(f"UPDATE shards SET address = '{other.shards[0]}' WHERE shard = 0")
        (problem,) = await problems(place)
        assert problem == f"shard 0, {other.shards[0]}, was made with 16 slots, the map has 8: it is of another deployment"


async def test_a_map_that_names_a_missing_database_is_refused(place: Place) -> None:
    await place.migrate()
    await place.rows("UPDATE shards SET address = 'no_such_database' WHERE shard = 1")
    (problem,) = await problems(place)
    assert problem.startswith("the map names shard 1, no_such_database, and there is no such database: make it with wq migrate")


async def test_a_shard_that_is_away_is_no_problem(place: Place) -> None:
    """The others go on (law 13)."""
    await place.migrate()
    away = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    async with place.engine() as catalog:
        found, told = await check_deployment(
            catalog, SLOTS, 0, lambda address: open_engine(away if address == place.shards[0] else place.url(address), 1)
        )
    assert found is not None
    assert told == []


async def test_a_look_tells_what_a_migration_would_do_and_does_nothing(place: Place) -> None:
    assert [(each.found, each.now, each.problem) for each in await look_at_all(place.wanted)] == [
        ("", CATALOG, f"there is no database {place.name}_catalog: run wq migrate"),
        ("", SHARD, f"there is no database {place.shards[0]}: run wq migrate"),
        ("", SHARD, f"there is no database {place.shards[1]}: run wq migrate"),
    ]
    await place.migrate()
    assert [(each.found, each.now, each.problem) for each in await look_at_all(place.wanted)] == [
        (CATALOG, CATALOG, ""),
        (SHARD, SHARD, ""),
        (SHARD, SHARD, ""),
    ]
