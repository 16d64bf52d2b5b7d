"""A record of `screened` -> who spoke in it, and when: its readings' values and flags are left alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from waterquality.v1 import log_pb2

from mesh.codec.wire import decode


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """Who spoke: the gateway (empty for a record that stands for a context or a dead one) and its sensors, repeats included."""

    region: str
    gateway_id: str
    received_at_us: int
    sensor_id: NDArray[np.int64]


def read_spoken(value: bytes) -> Spoken:
    """Raises InvalidArgument (UNREADABLE_RECORD) for bytes that are not such a record."""
    batch = decode(log_pb2.ScreenedBatch, value)
    sensor_id = np.array(batch.readings.readings.sensor_id, np.int64)
    return Spoken(batch.region, batch.gateway_id, batch.received_at_us, sensor_id)
