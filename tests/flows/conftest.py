"""Fixtures for tests that share one running system, because each of them leaves it as it was: that is what they test."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engines import reachable_folder
from tests.flows.grounds import Ground, fresh_deployment
from tests.flows.healthy import Healthy, healthy_gateway
from tests.flows.process import System, free_port
from tests.real import RunEngines

IMPATIENT = {"WQ_STREAM_OPEN_S": "3", "WQ_UNREAD_S": "2", "WQ_DRAIN_S": "20"}


@pytest.fixture(scope="session", params=["embedded", "engines"])
def ground(request: pytest.FixtureRequest) -> Ground:
    """What a system stands on: the embedded default, then real engines."""
    if request.param == "embedded":
        return lambda _: None
    run_engines: RunEngines = request.getfixturevalue("run_engines")
    return lambda folder: fresh_deployment(run_engines, folder)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shared_system(ground: Ground) -> AsyncIterator[System]:
    """`wq up` as a process, for all tests of this folder that only send and ask; it must stop in order at the end."""
    with reachable_folder() as folder:
        made = await asyncio.to_thread(ground, folder)
        system = System(folder / "data", free_port(), environment=IMPATIENT, ground=made)
        try:
            await system.start()
            yield system
            assert await system.stop() == 0, system.output()[-3000:]
        finally:
            system.clean_up()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def healthy(shared_system: System) -> AsyncIterator[Healthy]:
    """A gateway that streams all the time while the tests of a module run; at their end the system must be unharmed."""
    async with healthy_gateway(shared_system) as healthy:
        yield healthy


@pytest_asyncio.fixture(loop_scope="module")
async def target(shared_system: System, healthy: Healthy) -> AsyncIterator[str]:
    """Where the shared system listens. After the test the healthy gateway must have noticed nothing."""
    before = healthy.acknowledged
    yield shared_system.target
    await healthy.goes_on(before)
