"""What the gateway's tests share: settings that wait briefly, readings that can be told apart, and waiting on conditions."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mesh.gateway import Gateway, GatewaySettings
from water.parameter import PARAMETERS
from water.readings import Readings

PATIENCE_S = 15.0


def quick(target: str, **changes: Any) -> GatewaySettings:
    """Settings for tests: small batches, short waits between tries."""
    given: dict[str, Any] = {
        "max_batch_readings": 10,
        "max_batch_age_s": 0.01,
        "backoff_min_s": 0.001,
        "backoff_max_s": 0.01,
        "connect_timeout_s": PATIENCE_S,
        **changes,
    }
    return GatewaySettings(target, "g-1", "north", **given)


def numbered(first: int, count: int) -> Readings:
    """Readings whose sensor ids are `first`, `first` + 1, ..."""
    ids = np.arange(first, first + count, dtype=np.int64)
    values = np.full((len(PARAMETERS), count), np.nan, np.float32)
    values[0] = 7.0
    return Readings(ids, 1_767_225_600_000_000 + ids, values)


def ids_of(batches: Iterable[Readings]) -> list[int]:
    """The sensor ids in order."""
    return [int(sensor) for batch in batches for sensor in batch.sensor_id]


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits until it holds; fails naming what did not happen."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - conditions of the gateway's own, seen from outside
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"within {PATIENCE_S:g} s it did not come about that {what}") from None


async def hand_over(gateway: Gateway, readings: Readings, flush_s: float = 10) -> None:
    """All that a simple sender does."""
    async with gateway:
        await gateway.send(readings)
        await gateway.flush(flush_s)
