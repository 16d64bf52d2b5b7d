"""An object in JSON holds exactly the readings that were packed, and is what the contract says for any reader."""

import gzip
import json
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings

from archive_svc import pack_json as pack_json_module
from archive_svc.arrivals import Part
from archive_svc.chunk import Chunk, plan
from archive_svc.pack_json import by_sensor, pack_json, unpack_json
from archive_svc.unpacked import Places, Unpacked
from mesh.errors import InvalidArgument
from mesh.ports import Partition
from mesh.positions import NOWHERE, Position
from tests.archive.test_pack import any_readings, flagged, same
from tests.builders import START_US, readings_of, some_readings
from water.parameter import PARAMETERS
from water.readings import Readings

PARTITIONS = (Partition("screened", 3), Partition("screened_backfill", 0))


def of_one_sensor(readings: Readings, sensor_id: int) -> Unpacked:
    count = len(readings)
    one = Readings(np.full(count, sensor_id), readings.measured_at_us, readings.values, readings.flags)
    of = (np.arange(count) % 2).astype(np.int32)
    return Unpacked(one, "north", Places(PARTITIONS, of, np.arange(count) + 2**60, np.arange(count, dtype=np.int32)), "log-1")


@settings(max_examples=60, deadline=None)
@given(any_readings())
def test_what_is_unpacked_is_what_was_packed(readings: Readings) -> None:
    finite = np.where(np.isinf(readings.values), np.float32(1e30), readings.values)
    readings = Readings(readings.sensor_id, readings.measured_at_us, finite, readings.flags)
    one = of_one_sensor(readings, -(2**63))
    back = unpack_json(pack_json(one))
    assert same(back.readings, one.readings)
    assert (back.region, back.log_id) == ("north", "log-1")
    assert [back.places.partitions[of] for of in back.places.of] == [PARTITIONS[of] for of in one.places.of]
    assert np.array_equal(back.places.offset, one.places.offset)
    assert np.array_equal(back.places.index, one.places.index)


def test_anybody_reads_it() -> None:
    readings = flagged(readings_of((7, START_US, {"ph": 7.1}), (7, START_US + 1, {"turbidity_ntu": 0.3})))
    one = of_one_sensor(readings, 7)
    whole = json.loads(gzip.decompress(pack_json(one)))
    assert whole["sensor_id"] == 7
    first, second = whole["readings"]
    assert (first["timestamp"], first["ph_level"]) == ("2026-01-01T00:00:00.000000Z", 7.1)
    assert datetime.fromisoformat(second["timestamp"]).microsecond == 1
    assert (second["turbidity"], "ph_level" in second) == (0.3, False)
    assert (first["topic"], first["partition"], first["offset"], first["index"]) == ("screened", 3, 2**60, 0)
    assert pack_json(one) == pack_json(one)


def test_a_chunk_makes_one_object_for_each_sensor_and_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_json_module, "MOST_JSON_READINGS", 25)
    readings = flagged(some_readings(120, sensors=3, start=START_US - 86_400_000_000, period_s=86_400 / 40))
    part = Part(readings, np.full(120, b"north"), np.zeros(120, np.int64), np.arange(120, dtype=np.int32), {})  # type: ignore[arg-type]
    chunk = Chunk("log-1", PARTITIONS[0], NOWHERE, Position(0, 0), 0, by_json=True)
    planned = list(plan(chunk, part))
    assert sum(len(one.found) for one in planned) == 120
    assert len({one.path for one in planned}) == len(planned)
    for one in planned:
        assert len(one.found) <= 25
        (sensor_id,) = set(one.found.readings.sensor_id.tolist())
        assert f"-s{sensor_id}" in one.path
        assert one.path.endswith(".json.gz")
        times = one.found.readings.measured_at_us
        assert (np.diff(times) >= 0).all()
    assert [number for _, number, _ in by_sensor(np.full(60, 5))] == [0, 1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"sensor_id": "7"},
        {"sensor_id": 2**63},
        {"readings": []},
        {"readings": {"a": 1}},
        {"region": 5},
        {"timestamp": "2026-01-01T00:00:00"},
        {"timestamp": 5},
        {"timestamp": "x" * 30 + "Z"},
        {"flags": None},
        {"flags": 2**64},
        {"flags": True},
        {"offset": 1.5},
        {"index": "1"},
        {"partition": None},
        {"topic": ["screened"]},
        {"ph_level": "7"},
        {"ph_level": {}},
    ],
)
def test_what_is_no_object_is_refused(change: dict[str, object]) -> None:
    whole = json.loads(gzip.decompress(pack_json(of_one_sensor(flagged(some_readings(3)), 7))))
    ((name, value),) = change.items()
    target = whole if name in whole else whole["readings"][1]
    target[name] = value
    with pytest.raises(InvalidArgument) as error:
        unpack_json(gzip.compress(json.dumps(whole).encode()))
    assert error.value.reason == "UNREADABLE_OBJECT"


def test_bytes_that_are_no_gzip_or_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pack_json(of_one_sensor(flagged(some_readings(30)), 7))
    monkeypatch.setattr(pack_json_module, "MOST_TEXT_BYTES", 10_000)
    bomb = gzip.compress(b"[" * 20_000)
    for wrong in (b"", b"{}", content[:-9], content + b"x", bomb, gzip.compress(b"[]"), gzip.compress(b"\xff{")):
        with pytest.raises(InvalidArgument):
            unpack_json(wrong)


def test_only_readings_of_one_sensor_with_flags_are_packed() -> None:
    some = of_one_sensor(flagged(some_readings(4)), 7)
    for wrong in (
        Unpacked(flagged(some_readings(4, sensors=2)), "north", some.places, "log-1"),
        Unpacked(Readings(some.readings.sensor_id, some.readings.measured_at_us, some.readings.values), "n", some.places, "l"),
    ):
        with pytest.raises(ValueError, match="with their flags"):
            pack_json(wrong)
    assert len(PARAMETERS) == some.readings.values.shape[0]
