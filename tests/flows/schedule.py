"""Random histories of a small mesh: who sends what in which lane, and what crashes in between."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from mesh.codec.ingest_frames import Opening
from tests.builders import START_US, some_readings
from tests.flows.mesh import SLOTS, STAGES
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


@dataclass(frozen=True, slots=True)
class Away:
    """A shard's database takes no connection any more, until it is `back`."""

    shard: int
    back: bool


@dataclass(frozen=True, slots=True)
class Freeze:
    """A slot is not to be written any more, until it is thawed (`writable`)."""

    slot: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """A slot goes to the other shard, unless one of them is away."""

    slot: int


@dataclass(frozen=True, slots=True)
class Living:
    """If one shard is away: the other one has caught up meanwhile."""


Action = Send | Crash | Start | Away | Freeze | Moved | Living

_SEND = st.builds(
    Send,
    gateway=st.integers(0, len(GATEWAYS) - 1),
    backfill=st.booleans(),
    start=st.integers(0, 150),
    count=st.integers(1, 40),
    fault=st.sampled_from(["", "", "", "changed", "refused", "shuffled", "twice", "early"]),
)
_STAGE = st.sampled_from(STAGES)
_CRASH, _START = st.builds(Crash, _STAGE), st.builds(Start, _STAGE)
SCHEDULES: st.SearchStrategy[list[Action]] = st.lists(st.one_of(_SEND, _SEND, _SEND, _CRASH, _START), min_size=5, max_size=40)

_SLOT = st.integers(0, SLOTS - 1)
_SHARDS = (
    st.builds(Away, st.integers(0, 1), st.booleans()),
    st.builds(Freeze, _SLOT, st.booleans()),
    st.builds(Moved, _SLOT),
    st.builds(Living),
)
SHARD_SCHEDULES: st.SearchStrategy[list[Action]] = st.lists(
    st.one_of(_SEND, _SEND, _SEND, _SEND, *_SHARDS, *_SHARDS, st.just(Crash("record")), st.just(Start("record"))),
    min_size=10,
    max_size=40,
)
"""Histories in which shards go away, and slots are frozen and moved."""
