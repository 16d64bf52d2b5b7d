"""What is known of a gateway and of an episode of silence, as it is kept and as it is told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mesh.codec.tasks import Task
from water.condition import Change, Condition, Kind

GATEWAY_SEVERITY, GATEWAY_RULE = 3, "gateway-silence"
SENSOR_SEVERITY, SENSOR_RULE = 2, "sensor-silence"


@dataclass(slots=True, eq=False)
class Gateway:
    """`spoke_us`: its speaking time so far; `since_us`: of this, what lies before waiting last began; `is_resting`: waiting
    begins when it next speaks; `began_us`: of its silence, while it lasts; `is_told`: that stands in the Log; `is_changed`: since
    it was kept."""

    region: str
    gateway_id: str
    heard_us: int
    spoke_us: int = 0
    since_us: int = 0
    is_resting: bool = False
    began_us: int | None = None
    is_told: bool = True
    is_changed: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class GatewayRow:
    """A gateway as it is kept, and columns of the watched sensors that it was the last to bring."""

    region: str
    gateway_id: str
    heard_us: int
    spoke_us: int
    began_us: int | None
    is_told: bool
    sensor_id: NDArray[np.int64]
    sensor_heard_us: NDArray[np.int64]
    sensor_spoke_us: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SilentSensor:
    """A sensor's episode while it lasts, and the gateway that brought it last."""

    sensor_id: int
    site_id: str
    region: str
    gateway_id: str
    began_us: int
    is_told: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from what was kept: rows to write, and keys of rows to delete."""

    gateways: Sequence[GatewayRow]
    forgotten: Sequence[tuple[str, str]]
    silent: Sequence[SilentSensor]
    ended: Sequence[int]


def gateway_task(gateway: Gateway, began_us: int, ended_us: int | None) -> Task:
    """The silence of a gateway; `ended_us` None: it lasts."""
    condition_id = f"silence/gateway/{gateway.region}/{gateway.gateway_id}"
    condition = _condition(condition_id, began_us, ended_us, 0, "", GATEWAY_RULE, GATEWAY_SEVERITY)
    return Task(condition, gateway.gateway_id, gateway.region, condition.measured_us)


def sensor_task(episode: SilentSensor, ended_us: int | None) -> Task:
    """The silence of a sensor; `ended_us` None: it lasts."""
    condition_id = f"silence/sensor/{episode.sensor_id}"
    condition = _condition(
        condition_id, episode.began_us, ended_us, episode.sensor_id, episode.site_id, SENSOR_RULE, SENSOR_SEVERITY
    )
    return Task(condition, episode.gateway_id, episode.region, condition.measured_us)


def _condition(
    condition_id: str, began_us: int, ended_us: int | None, sensor_id: int, site_id: str, rule_id: str, severity: int
) -> Condition:
    """All times are of arrival. An end is never before the beginning."""
    ended_us = None if ended_us is None else max(began_us, ended_us)
    change = Change.RAISED if ended_us is None else Change.CLEARED
    measured_us = began_us if ended_us is None else ended_us
    return Condition(condition_id, began_us, ended_us, change, sensor_id, site_id, Kind.SILENCE, rule_id, severity, measured_us)
