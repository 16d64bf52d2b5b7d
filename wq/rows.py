"""Rows of an answer as columns."""

from collections.abc import Sequence

import numpy as np
from waterquality.v1.reading_pb2 import Reading

from water.flags import pack
from water.parameter import BY_NUMBER, PARAMETERS
from water.readings import Readings


def rows_as_readings(rows: Sequence[Reading]) -> Readings:
    """The readings, with flags; parameters that this program does not know are left out."""
    values = np.full((len(PARAMETERS), len(rows)), np.nan, np.float32)
    flags = np.zeros((len(PARAMETERS), len(rows)), np.uint8)
    for index, row in enumerate(rows):
        for value in row.values:
            if value.parameter in BY_NUMBER:
                values[value.parameter - 1, index] = value.value
                flags[value.parameter - 1, index] = value.flag
    sensor_id = np.array([row.sensor_id for row in rows], np.int64)
    measured_at_us = np.array([row.measured_time.ToMicroseconds() for row in rows], np.int64)
    return Readings(sensor_id, measured_at_us, values, pack(flags))
