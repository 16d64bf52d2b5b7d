"""A running mesh for the page's tests: `wq up` without a fleet, once for the run; each test has its page and its own sensors."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count

import pytest
import pytest_asyncio

from mesh.clock import SystemClock
from mesh.gateway import Gateway, GatewaySettings
from tests.engines import reachable_folder
from tests.flows.process import System, free_port
from tests.web.dashboard import Sending
from web_svc.wiring import serving_web

QUICK = {"WQ_FSYNC": "false", "NO_COLOR": "1", "COLUMNS": "200", "WQ_WEB_PORT": "0"}
_SENSORS = count(7_000_000_001, 1_000)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mesh() -> AsyncIterator[System]:
    """Serves until the end of the run."""
    with reachable_folder() as folder:
        system = System(folder / "data", free_port(), environment=QUICK)
        try:
            await system.start()
            yield system
            await system.stop()
        finally:
            system.clean_up()


@pytest.fixture
async def page(mesh: System) -> AsyncIterator[str]:
    """The address of a page of that mesh, http://HOST:PORT."""
    async with serving_web(mesh.target, "127.0.0.1", 0, SystemClock()) as address:
        yield f"http://{address}"


@pytest.fixture
def sensor_id() -> int:
    """The first of a thousand ids that no other test has."""
    return next(_SENSORS)


@pytest.fixture
def sending(mesh: System, sensor_id: int) -> Sending:
    """Opens a quick gateway of the test's own, in the region given."""

    @asynccontextmanager
    async def open_gateway(region: str) -> AsyncIterator[Gateway]:
        settings = GatewaySettings(mesh.target, f"gateway-{sensor_id}", region, max_batch_age_s=0.05)
        async with Gateway(settings) as gateway:
            yield gateway
            await gateway.flush(30)

    def opened(region: str) -> AbstractAsyncContextManager[Gateway]:
        return open_gateway(region)

    return opened
