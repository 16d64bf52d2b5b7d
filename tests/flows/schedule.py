"""Random histories of a small mesh: who sends what in which lane, and what crashes in between."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from mesh.codec.ingest_frames import Opening
from tests.builders import START_US, some_readings
from tests.flows.mesh import STAGES
from water.readings import Readings, concatenate

GATEWAYS = tuple(Opening(f"g-{number}", "north", False) for number in range(3))


@dataclass(frozen=True, slots=True)
class Send:
    """A batch of one gateway: where in its series it begins, and what is wrong with it."""

    gateway: int
    backfill: bool
    start: int
    count: int
    fault: str

    @property
    def opening(self) -> Opening:
        """Whose stream it comes on."""
        return GATEWAYS[self.gateway]._replace(backfill=self.backfill)

    def readings(self) -> Readings:
        """Starts that are the same or overlap repeat readings; starts that go back arrive late. `changed` has other values
        for the same keys, `refused` has one reading that cannot be stored, `shuffled` is out of order, `twice` twice."""
        series = some_readings(200, sensors=[10 * self.gateway + 1, 10 * self.gateway + 2, 5], seed=self.gateway)
        batch = series.take(np.arange(self.start, self.start + self.count))
        match self.fault:
            case "changed":
                return Readings(batch.sensor_id, batch.measured_at_us, batch.values + np.float32(1))
            case "refused":
                sensor_id = batch.sensor_id.copy()
                sensor_id[0] = 0
                return Readings(sensor_id, batch.measured_at_us, batch.values)
            case "shuffled":
                return batch.take(np.random.default_rng(self.start).permutation(len(batch)))
            case "twice":
                return concatenate([batch, batch])
            case "early":
                return Readings(batch.sensor_id, batch.measured_at_us - START_US, batch.values)
        return batch


@dataclass(frozen=True, slots=True)
class Crash:
    """The oldest worker of a stage dies."""

    stage: str


@dataclass(frozen=True, slots=True)
class Start:
    """One more worker of a stage: a restart, or a rebalance."""

    stage: str


Action = Send | Crash | Start

_SEND = st.builds(
    Send,
    gateway=st.integers(0, len(GATEWAYS) - 1),
    backfill=st.booleans(),
    start=st.integers(0, 150),
    count=st.integers(1, 40),
    fault=st.sampled_from(["", "", "", "changed", "refused", "shuffled", "twice", "early"]),
)
_STAGE = st.sampled_from(STAGES)
SCHEDULES: st.SearchStrategy[list[Action]] = st.lists(
    st.one_of(_SEND, _SEND, _SEND, st.builds(Crash, _STAGE), st.builds(Start, _STAGE)), min_size=5, max_size=40
)
