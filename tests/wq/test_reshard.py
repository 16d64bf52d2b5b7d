"""The command `wq reshard`: what it shows, asks, refuses, and says at the end."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from mesh.shards import transaction
from tests.conftest import FreshDatabase
from tests.query.resharder import reshard_elsewhere
from tests.query.resharding_mesh import Moving, moving
from tests.query.test_reshard_laws import insert


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Moving]:
    async with moving(fresh_database, shards=2, spare=1, slots=6) as made:
        for slot in range(6):
            await insert(made, slot, 10)
        yield made


async def wq(mesh: Moving, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    command = [sys.executable, "-m", "wq", "reshard", "--catalog", mesh.url_of(""), *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def owners(mesh: Moving) -> list[int]:
    found: list[int] = (await mesh.live.newer()).owner.tolist()
    return found


async def test_the_plan_is_shown_and_nothing_moves_without_a_yes(mesh: Moving) -> None:
    before = await owners(mesh)
    code, out, _ = await wq(mesh, "--to", "3", "--shards", mesh.names[2], "--plan")
    assert code == 0
    assert "2 of 6 slots (33%)" in out
    assert f"new: shard 2, {mesh.names[2]}" in out
    code, out, err = await wq(mesh, "--to", "3", "--shards", mesh.names[2])
    assert code == 1
    assert "nothing was moved; --yes does it" in err
    code, out, _ = await wq(mesh, "--to", "3", "--shards", mesh.names[2], "--plan", "--json")
    plan = json.loads(out)
    assert (code, plan["wanted"], len(plan["moves"]), plan["added"]) == (0, 3, 2, {"2": mesh.names[2]})
    assert plan["bytes"] == sum(move["bytes"] for move in plan["moves"]) > 0
    assert await owners(mesh) == before
    async with transaction(mesh.catalog) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM shards"))).scalar_one() == 2


async def test_it_grows_and_shrinks_and_says_what_has_come_of_it(mesh: Moving) -> None:
    code, out, err = await wq(mesh, "--to", "3", "--shards", mesh.names[2], "--yes", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert {name: report[name] for name in ("slots", "rows", "retired")} == {"slots": 2, "rows": 20, "retired": []}
    assert 0 < report["longest_cut_ms"] < report["longest_freeze_ms"]
    assert report["bytes"] > 0
    assert sorted(await owners(mesh)) == [0, 0, 1, 1, 2, 2]
    code, out, err = await wq(mesh, "--to", "3", "--yes")
    assert (code, "no slot is to be moved" in out) == (0, True), err
    code, out, err = await wq(mesh, "--to", "2", "--yes")
    assert code == 0, err
    assert f'DROP DATABASE "{mesh.names[2]}"' in out
    assert sorted(await owners(mesh)) == [0, 0, 0, 1, 1, 1]
    rows = await mesh.shard_rows("SELECT count(*) FROM sensor_readings")
    assert sum(count for ((count,),) in rows.values()) == 60


async def test_what_was_killed_is_gone_on_with_by_the_same_command_or_aborted(mesh: Moving) -> None:
    assert await reshard_elsewhere(mesh.order(3, kill_at=("attached", "noted"))) is None
    code, _, err = await wq(mesh, "--to", "2", "--yes")
    assert code == 1
    assert "a resharding to 3 shards is open, 0 of 2 slots are moved" in err
    assert "--abort" in err
    code, _, err = await wq(mesh, "--abort")
    assert code == 0, err
    assert set(await owners(mesh)) == {0, 1}
    code, _, err = await wq(mesh, "--abort")
    assert (code, "no resharding is open" in err) == (1, True)


async def test_it_says_what_is_missing(mesh: Moving) -> None:
    code, _, err = await wq(mesh, "--to", "3", "--yes")
    assert code == 1
    assert "3 shards are 1 more than there are, and 0 addresses of new ones are given: name 1 with --shards" in err
    code, _, err = await wq(mesh)
    assert code == 2
    assert "--to N" in err
    code, _, err = await wq(mesh, "--to", "3", "--json")
    assert code == 2
    assert "add --yes" in err
