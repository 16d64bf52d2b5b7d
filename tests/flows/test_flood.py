"""Very many batches at once: the server takes what it can, in bounded memory, and loses nothing."""

import asyncio

import numpy as np
import pytest

from mesh.gateway import Gateway, GatewaySettings
from tests.builders import START_US, some_readings
from tests.flows.accounts import Account, account_of
from tests.flows.healthy import Healthy
from water.parameter import PARAMETERS
from water.readings import Readings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
GATEWAYS = 50
BOUND_BYTES = 256 * 2**20


class Peak:
    """The most memory that the server had while anybody looked."""

    def __init__(self, healthy: Healthy) -> None:
        self._healthy = healthy
        self._before = self._most = healthy.rss_bytes()

    def look(self) -> None:
        self._most = max(self._most, self._healthy.rss_bytes())

    @property
    def grown_bytes(self) -> int:
        return self._most - self._before


async def send(target: str, gateway_id: str, readings: Readings, size: int, peak: Peak) -> None:
    """All of it in batches of this size, as fast as the server's window allows, on one stream."""
    settings = GatewaySettings(target, gateway_id, "flood", max_batch_readings=size, max_batch_age_s=0, ack_timeout_s=60)
    async with Gateway(settings) as gateway:
        for start in range(0, len(readings), size):
            await gateway.send(readings.take(np.arange(start, start + size)))
            peak.look()
        await gateway.flush(60)
        peak.look()
        assert (gateway.statistics.acknowledged, gateway.statistics.reconnects) == (len(readings), 0)


@pytest.mark.parametrize(("kind", "batches", "size"), [("tiny", 50, 1), ("large", 1, 10_000)])
async def test_fifty_gateways_at_once_are_all_acknowledged_and_stored(
    kind: str, batches: int, size: int, target: str, healthy: Healthy
) -> None:
    peak, first = Peak(healthy), 100_000 + size
    fleet = {
        f"{kind}-{number}": some_readings(batches * size, sensors=range(first + 10 * number, first + 10 * number + 10))
        for number in range(GATEWAYS)
    }
    await asyncio.gather(*(send(target, gateway_id, readings, size, peak) for gateway_id, readings in fleet.items()))
    total = GATEWAYS * batches * size
    assert await account_of(target, *fleet) == Account(accepted=total, stored=total)
    assert peak.grown_bytes < BOUND_BYTES


async def test_fifty_gateways_with_nothing_but_refused_readings_cost_little_memory(target: str, healthy: Healthy) -> None:
    peak, batches, size = Peak(healthy), 10, 10_000
    values = np.full((len(PARAMETERS), batches * size), np.nan, np.float32)
    nothing = Readings(np.resize([0, 8_000_001], batches * size), np.full(batches * size, START_US), values)
    gateway_ids = [f"refused-{number}" for number in range(GATEWAYS)]
    await asyncio.gather(*(send(target, gateway_id, nothing, size, peak) for gateway_id in gateway_ids))
    half = GATEWAYS * batches * size // 2
    assert await account_of(target, *gateway_ids) == Account(refused={"INVALID_SENSOR": half, "NO_VALUES": half})
    assert peak.grown_bytes < BOUND_BYTES
