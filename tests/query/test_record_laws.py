"""The recorder against an oracle of five lines: whatever comes, in whatever batches, the first of a key stays (law 5)."""

from collections import Counter
from collections.abc import AsyncIterator
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.stages import Progress
from query_svc.record import Record as Recorder
from tests.builders import START_US, readings_of
from tests.query.deployment import Deployment, FreshDatabase, deployed, running
from water.readings import Readings

_READING = st.tuples(
    st.integers(0, 4),  # sensor
    st.integers(0, 3),  # second
    st.sampled_from([{"ph": 7.0}, {"ph": 7.0, "flow_m3_h": 0.0}, {"ph": 7.0, "flow_m3_h": -0.0}, {"redox_mv": 7.0}]),
)
_BATCHES = st.lists(st.lists(_READING, max_size=12), min_size=1, max_size=8)
_EXAMPLES = count(1)


@pytest.fixture
async def mesh(fresh_database: FreshDatabase) -> AsyncIterator[Deployment]:
    async with deployed(fresh_database) as deployment:
        yield deployment


class Oracle:
    """A dictionary: natural key -> values, and what became of each reading."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], dict[str, float]] = {}
        self.counts: Counter[str] = Counter()

    def take(self, sensor: int, at_us: int, values: dict[str, float]) -> None:
        kept = self.rows.setdefault((sensor, at_us), values)
        self.counts["stored" if kept is values else "duplicate" if kept == values else "conflicting"] += 1


async def test_any_batches_in_any_pieces_leave_what_the_oracle_leaves(mesh: Deployment) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(_BATCHES, st.sets(st.integers(0, 7)))
    def check(batches: list[list[tuple[int, int, dict[str, float]]]], restarts: set[int]) -> None:
        examples.append((batches, restarts))

    examples: list[tuple[list[list[tuple[int, int, dict[str, float]]]], set[int]]] = []
    check()
    before: Counter[str] = Counter()
    for batches, restarts in examples:
        oracle = Oracle()
        base = 100 * next(_EXAMPLES)  # each example has sensors of its own, so that one database serves them all
        for number, batch in enumerate(batches):
            rows = [(base + sensor, START_US + second * 1_000_000, dict(values)) for sensor, second, values in batch]
            for row in rows:
                oracle.take(*row)
            await mesh.put(readings_of(*rows) if rows else _nothing())
            if number in restarts:
                await _record(mesh)
        await _record(mesh)
        counts = Counter(await mesh.ledger())
        assert counts - before == oracle.counts
        before = counts
        stored = await mesh.rows(
            f"""SELECT sensor_id, (extract(epoch FROM timestamp) * 1000000)::bigint, ph_level, redox, flow
                FROM sensor_readings WHERE sensor_id BETWEEN {base} AND {base + 99}"""
        )
        wanted = {(*key, row.get("ph"), row.get("redox_mv"), row.get("flow_m3_h")) for key, row in oracle.rows.items()}
        assert set(stored) == wanted
        assert len(stored) == len(wanted)


async def _record(mesh: Deployment) -> None:
    async with running(Recorder(mesh.log, mesh.shards, Progress("record")).run):
        await mesh.all_recorded()


def _nothing() -> Readings:
    return Readings(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((8, 0), np.float32))
