"""Fixtures of the archive's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.adapters.postgres_log import PostgresLog
from mesh.clock import ManualClock
from tests.archive.archiving import Archiving, Place, a_place
from tests.archive.restoring import Station, send_history, station
from tests.conftest import FreshDatabase


@pytest.fixture
def archiving(postgres_log: PostgresLog, clock: ManualClock) -> Archiving:
    """An empty log to put screened records in."""
    return Archiving(postgres_log, clock)


@pytest.fixture
async def place(
    postgres_log: PostgresLog, clock: ManualClock, fresh_database: FreshDatabase, tmp_path: Path
) -> AsyncIterator[Place]:
    """An empty archive of that log."""
    async with a_place(postgres_log, clock, fresh_database, tmp_path / "archive") as one:
        yield one


@pytest.fixture
async def other_place(
    postgres_log: PostgresLog, clock: ManualClock, fresh_database: FreshDatabase, tmp_path: Path
) -> AsyncIterator[Place]:
    """Another empty archive of the same log."""
    async with a_place(postgres_log, clock, fresh_database, tmp_path / "other") as one:
        yield one


@pytest.fixture
async def first(fresh_database: FreshDatabase, tmp_path: Path) -> AsyncIterator[Station]:
    """Has a history, recorded and archived."""
    async with station(fresh_database, tmp_path / "first") as one:
        await send_history(one.mesh)
        await one.record_and_archive()
        yield one


@pytest.fixture
async def second(fresh_database: FreshDatabase, tmp_path: Path, first: Station) -> AsyncIterator[Station]:
    """Empty, with the archive of the first configured."""
    async with station(fresh_database, tmp_path / "second") as one:
        one.sources["old"] = first.objects
        yield one


@pytest.fixture
async def third(fresh_database: FreshDatabase, tmp_path: Path) -> AsyncIterator[Station]:
    """Empty, and nothing is configured."""
    async with station(fresh_database, tmp_path / "third") as one:
        yield one
