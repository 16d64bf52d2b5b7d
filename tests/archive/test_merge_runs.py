"""However a day is cut into runs: by sensor and time, the first of each, and others only where their values differ."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archive_svc import first_of_each as first_of_each_module
from archive_svc import merge_runs
from archive_svc.first_of_each import first_of_each, repeated
from archive_svc.merge_runs import Runs, between_keys
from archive_svc.unpacked import Unpacked, in_partition, join
from mesh.ports import Partition
from tests.builders import some_readings
from water.parameter import PARAMETERS
from water.readings import Readings


def found(sensor: list[int], time: list[int], ph: list[float], number: int = 0) -> Unpacked:
    """Readings in this order; flags and places tell their place in it."""
    count = len(sensor)
    values = np.full((len(PARAMETERS), count), np.nan, np.float32)
    values[0] = ph
    flags = np.arange(count, dtype=np.uint64)
    readings = Readings(np.array(sensor, np.int64), np.array(time, np.int64), values, flags)
    places = in_partition(Partition("screened", number), np.arange(count, dtype=np.int64), np.zeros(count, np.int32))
    return Unpacked(readings, "north", places, "log-1")


def expected(rows: list[tuple[int, int, float]]) -> list[tuple[int, int, float, int]]:
    """By Python: sensor, time, value and place of what stays."""
    seen: dict[tuple[int, int, float], int] = {}
    for place, (sensor, time, ph) in enumerate(rows):
        seen.setdefault((sensor, time, -1.0 if ph != ph else ph + 0.0), place)
    return sorted(((*key, place) for key, place in seen.items()), key=lambda one: (one[0], one[1], one[3]))


def shown(one: Unpacked) -> list[tuple[int, int, float, int]]:
    readings = one.readings
    assert readings.flags is not None
    ph = np.where(np.isnan(readings.values[0]), -1.0, readings.values[0] + 0.0)
    columns: tuple[NDArray[np.generic], ...] = (readings.sensor_id, readings.measured_at_us, ph, readings.flags)
    return list(zip(*(column.tolist() for column in columns), strict=True))


VALUES = st.sampled_from([7.0, 8.0, 0.0, -0.0, float("nan")])
ROWS = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), VALUES), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, cut=st.integers(1, 20), run=st.integers(1, 20), piece=st.integers(1, 4), at_once=st.integers(2, 4))
def test_runs_give_what_one_look_at_everything_gives(
    tmp_path: Path, rows: list[tuple[int, int, float]], cut: int, run: int, piece: int, at_once: int
) -> None:
    whole = found(*(list(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as small:
        small.setattr(merge_runs, "RUN_READINGS", run)
        small.setattr(merge_runs, "PIECE_READINGS", piece)
        small.setattr(merge_runs, "AT_ONCE", at_once)
        runs = Runs(tmp_path)
        for start in range(0, len(whole), cut):
            runs.add(whole.take(np.arange(start, min(len(whole), start + cut))))
        pieces = list(runs.merged())
    merged = join(pieces)
    assert shown(merged) == expected(rows)
    assert runs.duplicates == len(rows) - len(merged)
    keys = [{(one[0], one[1]) for one in shown(one)} for one in pieces]
    assert sum(map(len, keys)) == len(set().union(*keys)), "no key is in two pieces"
    assert list(tmp_path.iterdir()) == []


def test_readings_of_one_key_with_very_many_values_all_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_of_each_module, "MOST_DIFFERENT", 3)
    kept, duplicates = first_of_each(found([1] * 8, [0] * 8, [1, 1, 2, 3, 4, 5, 5, 1]))
    assert [one[2] for one in shown(kept)] == [1, 2, 3, 4, 5, 5]
    assert duplicates == 2
    assert repeated(kept.readings).tolist() == list(range(6))


def test_nothing_gives_nothing(tmp_path: Path) -> None:
    assert list(Runs(tmp_path).merged()) == []


def test_pieces_are_cut_between_keys() -> None:
    whole, _ = first_of_each(found([1, 1, 1, 1, 2, 3, 3, 3], [0, 0, 0, 1, 0, 0, 0, 0], [1, 2, 3, 1, 1, 1, 2, 3]))
    assert [len(piece) for piece in between_keys(whole, 2)] == [3, 2, 3]
    assert [len(piece) for piece in between_keys(whole, 100)] == [8]


def test_readings_of_several_partitions_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_runs, "RUN_READINGS", 700)
    monkeypatch.setattr(merge_runs, "PIECE_READINGS", 50)
    runs, places = Runs(tmp_path), set()
    for number in range(8):
        readings = some_readings(300, sensors=20, seed=number, start=number * 10**9)
        readings = readings.with_flags(np.full(300, number, np.uint64))
        where = in_partition(Partition("screened", number), np.arange(300) + number, np.arange(300, dtype=np.int32))
        runs.add(Unpacked(readings, "north", where, "log-1"))
        places |= {(number, offset) for offset in where.offset.tolist()}
    merged = join(list(runs.merged()))
    assert merged.readings.flags is not None
    of = [merged.places.partitions[one].number for one in merged.places.of.tolist()]
    assert of == merged.readings.flags.tolist()
    assert set(zip(of, merged.places.offset.tolist(), strict=True)) == places
