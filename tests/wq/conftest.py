"""`wq up` for tests: on a new data directory, or on a copy of one that an earlier run has left in order."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.engines import reachable_folder
from tests.flows.process import System, free_port

QUICK = {"WQ_FSYNC": "false", "NO_COLOR": "1", "COLUMNS": "200"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def left_in_order() -> AsyncIterator[Path]:
    """A data directory that one run has made and left."""
    with reachable_folder() as folder:
        system = System(folder / "data", 0, environment=QUICK)
        try:
            await system.start()
            assert await system.stop() == 0
        finally:
            system.clean_up()
        yield system.data


@pytest.fixture
def new_system() -> Iterator[System]:
    """Nothing is there yet."""
    with reachable_folder() as folder:
        system = System(folder / "data", free_port(), environment=QUICK)
        try:
            yield system
        finally:
            system.clean_up()


@pytest.fixture
def system(new_system: System, left_in_order: Path) -> System:
    """On a data directory that was used before; not started."""
    subprocess.run(["cp", "-a", left_in_order, new_system.data], check=True)
    return new_system
