"""Laws 1 to 7 under random schedules of batches, repeats, disorder, crashes and rebalances, on the embedded Log."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from mesh import ledger
from mesh.adapters.directory import DirectoryObjects
from mesh.codec.log_records import Accepted, Screened, read_accepted, read_screened
from mesh.ports import Partition
from mesh.topics import ACCEPTED, BACKFILL, SCREENED_FROM
from query_svc import record_late, record_slots
from query_svc.ledger_answer import Page
from query_svc.tables import VALUE_COLUMNS
from tests.conftest import FreshDatabase
from tests.flows.mesh import Mesh, a_mesh
from tests.flows.schedule import SCHEDULES, SHARD_SCHEDULES, Action, Away, Crash, Freeze, Living, Moved, Send, Start
from tests.flows.shard_trouble import ShardTrouble
from water.readings import Readings
from water.screen import Settings, screen
from water.state import State

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Key = tuple[int, datetime]
Row = tuple[float | None, ...]


@given(SCHEDULES)
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes: each example makes three databases
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_whatever_crashes_nothing_is_lost_doubled_or_flagged_otherwise(
    fresh_database: FreshDatabase, schedule: list[Action]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with a_mesh(fresh_database, DirectoryObjects(Path(folder))) as mesh:
            expected = await _play(mesh, schedule)
            page = await mesh.caught_up()
            accepted = await _accepted(mesh)

            _check_ledger(page, expected)
            _check_screened(accepted, await _screened(mesh))
            stored = await _stored(mesh)
            _check_rows(page, accepted, stored)

            for stage in ("screen", "record", "count"):
                await mesh.crash(stage)
            again = await mesh.caught_up()
            assert _counts(again) == _counts(page), "a restart changed the ledger"
            assert await _stored(mesh) == stored, "a restart changed the rows"


@pytest.mark.timeout(300)
@given(SHARD_SCHEDULES)
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_whichever_shard_is_away_and_whichever_slot_moves_nothing_is_lost_or_doubled(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch, schedule: list[Action]
) -> None:
    """Law 13, with all the others. Small limits, so that a few records are as many as thousands."""
    monkeypatch.setattr(record_slots, "CLOSE", 2)
    monkeypatch.setattr(record_late, "CLOSE", 2)
    monkeypatch.setattr(record_late, "READ_RECORDS", 3)
    with tempfile.TemporaryDirectory() as folder:
        async with a_mesh(fresh_database, DirectoryObjects(Path(folder))) as mesh:
            expected = await _play(mesh, schedule)
            page = await mesh.caught_up()
            _check_ledger(page, expected)
            _check_rows(page, await _accepted(mesh), await _stored(mesh))


async def _play(mesh: Mesh, schedule: Iterable[Action]) -> Counter[str]:
    """Readings that were answered, by measure of the ledger."""
    answered: Counter[str] = Counter()
    trouble = ShardTrouble(mesh)
    for sequence, action in enumerate(schedule, 1):
        match action:
            case Start(stage):
                if len(mesh.workers[stage]) < 3:
                    mesh.start(stage)
            case Crash(stage):
                await mesh.crash(stage)
            case Away() | Freeze() | Moved() | Living():
                await trouble.make(action)
            case Send():
                readings = action.readings()
                handed = await mesh.hand_over(action.opening, sequence, readings)
                for refusal in handed.refusals:
                    answered[ledger.refused(refusal.reason)] += refusal.count
                answered[ledger.ACCEPTED] += len(readings) - sum(refusal.count for refusal in handed.refusals)
    return +answered


async def _accepted(mesh: Mesh) -> dict[Partition, list[tuple[int, Accepted]]]:
    """All accepted batches by partition, in the order of the Log."""
    found = {}
    for topic in (ACCEPTED, BACKFILL):
        for number in range(mesh.log.partition_count):
            partition = Partition(topic, number)
            batches = [
                (stored.offset, read_accepted(stored.record.value)) for stored in await mesh.log.read(partition, 0, 10_000)
            ]
            found[partition] = [(offset, batch) for offset, batch in batches if isinstance(batch, Accepted)]
    return found


async def _screened(mesh: Mesh) -> dict[Partition, list[Screened]]:
    """All screened records by source partition, as a reader sees them: what it has had is dropped, a hole is an error."""
    found: dict[Partition, list[Screened]] = defaultdict(list)
    for topic, screened_topic in SCREENED_FROM.items():
        for number in range(mesh.log.partition_count):
            last = -1
            for stored in await mesh.log.read(Partition(screened_topic, number), 0, 100_000):
                screened = read_screened(stored.record.value)
                if screened.source_offset > last:
                    assert screened.previous_source_offset == last, "a hole in the screened records"
                    last = screened.source_offset
                    found[Partition(topic, number)].append(screened)
    return found


async def _stored(mesh: Mesh) -> dict[Key, tuple[Row, int]]:
    rows = await mesh.rows(", ".join((*VALUE_COLUMNS, "flags")))
    return {(row[0], row[1]): (tuple(_exact(value) for value in row[2:-1]), row[-1]) for row in rows}


def _exact(value: float | None) -> float | None:
    """PostgreSQL writes a real as the shortest decimal that means it."""
    return None if value is None else float(np.float32(value))


def _counts(page: Page) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for entry in page.entries:
        counts.update(entry.counts)
    return dict(+counts)


def _check_ledger(page: Page, answered: Counter[str]) -> None:
    """Law 1."""
    assert page.balanced
    counts = _counts(page)
    assert {measure: count for measure, count in counts.items() if measure in answered} == dict(answered)
    outcomes = ("stored", "duplicate", "conflicting")
    assert counts.get(ledger.ACCEPTED, 0) == sum(counts.get(measure, 0) for measure in outcomes)


def _check_screened(accepted: dict[Partition, list[tuple[int, Accepted]]], screened: dict[Partition, list[Screened]]) -> None:
    """Law 6: one record each, with the flags and conditions that an undisturbed fold of that partition gives."""
    for partition, batches in accepted.items():
        state, settings = State(), Settings()
        found = {record.source_offset: record for record in screened[partition]}
        for offset, batch in batches:
            expected = screen(state, batch.readings, settings, batch.region)
            record = found[offset]
            assert record.readings.flags is not None
            assert record.readings.flags.tolist() == expected.flags.tolist()
            assert [task.condition for task in record.conditions] == [*expected.conditions]
            assert record.readings.sensor_id.tolist() == batch.readings.sensor_id.tolist()


def _check_rows(page: Page, accepted: dict[Partition, list[tuple[int, Accepted]]], stored: dict[Key, tuple[Row, int]]) -> None:
    """Laws 3 to 5: each key once, with the values and flags of the first that came on one of its partitions."""
    firsts: dict[Key, set[tuple[Row, int]]] = defaultdict(set)
    arrivals: Counter[tuple[Key, Row]] = Counter()
    for batches in accepted.values():
        seen: set[Key] = set()
        state, settings = State(), Settings()
        for _, batch in batches:
            flags = screen(state, batch.readings, settings, batch.region).flags
            for key, row, flag in _rows(batch.readings, flags):
                arrivals[key, row] += 1
                if key not in seen:
                    seen.add(key)
                    firsts[key].add((row, flag))
    assert stored.keys() == firsts.keys()
    assert all(content in firsts[key] for key, content in stored.items())
    conflicting = sum(count for (key, row), count in arrivals.items() if stored[key][0] != row)
    counts = _counts(page)
    assert counts.get("conflicting", 0) == conflicting
    assert counts.get("stored", 0) == len(stored)


def _rows(readings: Readings, flags: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> Iterable[tuple[Key, Row, int]]:
    for index in range(len(readings)):
        at = _EPOCH + timedelta(microseconds=int(readings.measured_at_us[index]))
        values = tuple(None if np.isnan(value) else float(value) for value in readings.values[:, index])
        yield (int(readings.sensor_id[index]), at), values, int(flags[index].view(np.int64))
