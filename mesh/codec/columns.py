"""ReadingColumns and FlaggedColumns <-> water.Readings."""

import numpy as np
from waterquality.v1.reading_pb2 import FlaggedColumns, ReadingColumns

from mesh.errors import InvalidArgument
from water.parameter import PARAMETERS
from water.readings import Readings

_COLUMNS = ("sensor_id", "measured_at_us", *(parameter.column for parameter in PARAMETERS))


def unequal_columns(message: ReadingColumns) -> dict[str, int]:
    """Lengths of all columns that are not empty, when they differ; empty when the message is well formed."""
    lengths = {name: len(getattr(message, name)) for name in _COLUMNS}
    required = {lengths["sensor_id"], lengths["measured_at_us"]}
    optional = set(lengths.values()) - {0}
    return {} if len(required) == 1 and optional <= required else {name: n for name, n in lengths.items() if n}


def longest_column(message: ReadingColumns) -> int:
    """How many readings a malformed batch was meant to have: the length of its longest column."""
    return max(len(getattr(message, name)) for name in _COLUMNS)


def read_columns(message: ReadingColumns) -> Readings:
    """Readings that carry the message as `source`. Raises InvalidArgument (COLUMNS_UNEQUAL) naming the lengths."""
    lengths = unequal_columns(message)
    if lengths:
        listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise InvalidArgument(f"columns must be empty or of one length; got {listed}", reason="COLUMNS_UNEQUAL")
    sensor_id = np.array(message.sensor_id, np.int64)
    values = np.full((len(PARAMETERS), len(sensor_id)), np.nan, np.float32)
    for row, parameter in zip(values, PARAMETERS, strict=True):
        column = getattr(message, parameter.column)
        if len(column):
            row[:] = np.array(column, np.float32)
    return Readings(sensor_id, np.array(message.measured_at_us, np.int64), values, source=message)


def write_columns(readings: Readings) -> ReadingColumns:
    """The message the readings came from, or a new one; a parameter that no reading has stays an empty column."""
    if isinstance(readings.source, ReadingColumns):
        return readings.source
    message = ReadingColumns()
    message.sensor_id.extend(readings.sensor_id.tolist())
    message.measured_at_us.extend(readings.measured_at_us.tolist())
    for row, parameter in zip(readings.values, PARAMETERS, strict=True):
        if not np.isnan(row).all():
            getattr(message, parameter.column).extend(row.tolist())
    return message


def read_flagged(message: FlaggedColumns) -> Readings:
    """Readings with flags. Raises InvalidArgument when flags and readings differ in length."""
    readings = read_columns(message.readings)
    flags = np.array(message.flags, np.uint64)
    if len(flags) != len(readings):
        raise InvalidArgument(f"{len(readings)} readings but {len(flags)} flags", reason="COLUMNS_UNEQUAL")
    return readings.with_flags(flags)


def write_flagged(readings: Readings) -> FlaggedColumns:
    """The readings, which must have been screened, and their flags."""
    if readings.flags is None:
        raise ValueError("readings without flags: screen them first")
    message = FlaggedColumns()
    message.readings.CopyFrom(write_columns(readings))
    message.flags.extend(readings.flags.tolist())
    return message
