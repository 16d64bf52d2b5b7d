"""What are the bytes of an archive object in JSON: readings of one sensor, gzipped, that any tool and any person reads?"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_svc.unpacked import Places, Unpacked, unreadable
from mesh.ports import Partition
from water.parameter import PARAMETERS
from water.readings import Readings

MOST_JSON_READINGS = 100_000
"""Readings that one object may have; a sensor with more has several."""
MOST_TEXT_BYTES = 512 * MOST_JSON_READINGS
_LEVEL = 6
_VALUES = tuple(parameter.sql_column for parameter in PARAMETERS)


def pack_json(found: Unpacked) -> bytes:
    """The object of these readings (one at least, all of one sensor, with flags), in their order: `{"sensor_id", "region",
    "log_id", "readings": [{"timestamp", "ph_level", ..., "flags", "topic", "partition", "offset", "index"}]}`. Names are the
    public ones; what was not measured is left out; values have the shortest digits that are read back as the same float32. The
    same input gives the same bytes. Blocks: run it in a thread."""
    sensors = np.unique(found.readings.sensor_id)
    if len(sensors) != 1 or len(found) > MOST_JSON_READINGS or found.readings.flags is None:
        raise ValueError(f"{len(found)} readings of {len(sensors)} sensors: an object has some of one sensor, with their flags")
    whole = {"sensor_id": int(sensors[0]), "region": found.region, "log_id": found.log_id, "readings": list(_lines(found))}
    return gzip.compress(json.dumps(whole, separators=(",", ":")).encode(), _LEVEL, mtime=0)


def unpack_json(content: bytes) -> Unpacked:
    """The inverse. Raises InvalidArgument (UNREADABLE_OBJECT) for anything else, and for more readings than one object may have.
    Blocks: run it in a thread."""
    try:
        whole = json.loads(_unzipped(content))
        lines = whole["readings"]
        if not 0 < len(lines) <= MOST_JSON_READINGS:
            raise ValueError(f"{len(lines)} readings: 1 to {MOST_JSON_READINGS:,} were expected")
        readings = Readings(
            np.repeat(_whole([whole["sensor_id"]]), len(lines)),
            _times([line["timestamp"] for line in lines]),
            np.array([[_number(line.get(name)) for line in lines] for name in _VALUES], np.float32),
            _whole([line["flags"] for line in lines]).view(np.uint64),
        )
        return Unpacked(readings, _text(whole["region"]), _places(lines), _text(whole["log_id"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, EOFError, zlib.error) as error:
        raise unreadable(f"{type(error).__name__}: {error}") from error


def by_sensor(sensor_id: NDArray[np.int64]) -> Iterator[tuple[int, int, NDArray[np.intp]]]:
    """What goes into one object each: a sensor, the number of the object among those of the sensor, and positions, in order."""
    order = np.argsort(sensor_id, kind="stable")
    first = np.flatnonzero(np.r_[True, sensor_id[order][1:] != sensor_id[order][:-1]])
    for begin, end in zip(first.tolist(), [*first[1:].tolist(), len(order)], strict=True):
        for number, start in enumerate(range(begin, end, MOST_JSON_READINGS)):
            yield int(sensor_id[order[begin]]), number, order[start : min(end, start + MOST_JSON_READINGS)]


def _lines(found: Unpacked) -> Iterator[dict[str, object]]:
    readings, places = found.readings, found.places
    assert readings.flags is not None
    times = np.datetime_as_string(readings.measured_at_us.view("datetime64[us]"), unit="us").tolist()
    digits = [column.astype("U").tolist() for column in readings.values]
    measured = (~np.isnan(readings.values)).tolist()
    flags, of = readings.flags.view(np.int64).tolist(), places.of.tolist()
    offset, index = places.offset.tolist(), places.index.tolist()
    for row, time in enumerate(times):
        line: dict[str, object] = {"timestamp": time + "Z"}
        for name, has, text in zip(_VALUES, measured, digits, strict=True):
            if has[row]:
                line[name] = float(text[row])
        topic, number = places.partitions[of[row]]
        yield line | {"flags": flags[row], "topic": topic, "partition": number, "offset": offset[row], "index": index[row]}


def _unzipped(content: bytes) -> bytes:
    """At most what our own largest has: a few bytes may say very much."""
    stream = zlib.decompressobj(wbits=31)
    text = stream.decompress(content, MOST_TEXT_BYTES)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"no gzip, cut off, or more than {MOST_TEXT_BYTES} bytes of text")
    return text


def _times(given: Sequence[Any]) -> NDArray[np.int64]:
    if not all(type(one) is str and one.endswith("Z") for one in given):
        raise ValueError("a timestamp is no text that ends with Z")
    return np.array([one[:-1] for one in given], "datetime64[us]").view(np.int64)


def _number(given: Any) -> float:
    if given is None:
        return float("nan")
    if type(given) not in (int, float):
        raise ValueError(f"{str(given)[:40]!r} is no number")
    return float(given)


def _whole(given: Sequence[Any]) -> NDArray[np.int64]:
    if not all(type(one) is int for one in given):
        raise ValueError("flags and places are whole numbers")
    return np.array(given, np.int64)


def _text(given: Any) -> str:
    if type(given) is not str:
        raise ValueError(f"{str(given)[:40]!r} is no text")
    return given


def _places(lines: Sequence[dict[str, Any]]) -> Places:
    both = [Partition(_text(line["topic"]), line["partition"]) for line in lines]
    partitions = tuple(dict.fromkeys(both))
    _whole([number for _, number in partitions])
    place = {partition: number for number, partition in enumerate(partitions)}
    return Places(
        partitions,
        np.array([place[one] for one in both], np.int32),
        _whole([line["offset"] for line in lines]),
        _whole([line["index"] for line in lines]).astype(np.int32),
    )
