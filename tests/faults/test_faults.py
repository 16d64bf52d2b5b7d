"""A short selection of the fault suite: what dies, hangs or is cut loses and doubles nothing, and heals by itself."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mesh.errors import SetupError
from tests.faults.deployment import Deployment
from tests.faults.embedded import EmbeddedDeployment
from tests.faults.fault import Fault, both, cut, half_open, killed, paused
from tests.faults.more_faults import a_week_at_once, resends
from tests.faults.real import RealDeployment
from tests.faults.run import run_fault
from tests.real import cannot_be_had
from wq.engines.programs import find_epmd, find_gateway, find_jars, find_java

SEED = 20261126
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedded() -> AsyncIterator[EmbeddedDeployment]:
    async with EmbeddedDeployment() as deployment:
        yield deployment


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real() -> AsyncIterator[RealDeployment]:
    """Real engines, of each the least that there must be, and every process."""
    try:
        find_java(), find_jars(), find_gateway(), find_epmd()
    except SetupError as error:
        cannot_be_had(error.message)
    async with RealDeployment(brokers=1, partitions=8, slots=40) as deployment:
        yield deployment


IN_ONE_PROCESS = (
    killed("postgres"),
    paused("postgres", short_s=8.0, told=False),
    half_open("gateways to ingest"),
    resends(SEED),
    a_week_at_once(20),
)
ON_ENGINES = (
    both(killed("record-1"), killed("screen-1")),
    both(killed("postgres-shard-0"), cut("programs to RabbitMQ")),
    both(killed("kafka-1"), half_open("programs to S3")),
)


@pytest.mark.parametrize("number", range(len(IN_ONE_PROCESS)), ids=lambda number: IN_ONE_PROCESS[number].name)
async def test_one_process_loses_and_doubles_nothing(embedded: EmbeddedDeployment, number: int) -> None:
    await must_pass(embedded, IN_ONE_PROCESS[number], number)


@pytest.mark.parametrize("number", range(len(ON_ENGINES)), ids=lambda number: ON_ENGINES[number].name)
async def test_many_processes_on_real_engines_lose_and_double_nothing(real: RealDeployment, number: int) -> None:
    await must_pass(real, ON_ENGINES[number], number)


async def must_pass(deployment: Deployment, fault: Fault, number: int) -> None:
    row = await run_fault(deployment, fault, SEED, number, lambda step: None, short=True)
    assert row.problems == [], deployment.output()[-5000:]
    assert (row.verdict.lost, row.verdict.doubled) == (0, 0)
    assert row.verdict.alarms_raised == row.verdict.alarms_expected > 0
    assert row.verdict.account.stored > 1_000
