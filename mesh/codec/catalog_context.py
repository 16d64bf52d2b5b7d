"""The bytes of a CatalogContext -> what of it screening depends on."""

from math import isfinite

import numpy as np
from waterquality.v1 import log_pb2

from mesh.codec.wire import decode
from water.screen import Settings

GAP_PERIODS = 5
LONGEST_GAP_S = 366 * 24 * 3600.0


def read_catalog_settings(content: bytes) -> Settings:
    """A sensor's history starts anew after a gap of five of its expected periods, where a person has given one. Raises
    InvalidArgument (UNREADABLE_RECORD) for other bytes."""
    context = decode(log_pb2.CatalogContext, content)
    gap_s = {
        sensor.sensor_id: min(GAP_PERIODS * sensor.expected_period_s, LONGEST_GAP_S)
        for sensor in context.sensors
        if sensor.expected_period_s > 0 and isfinite(sensor.expected_period_s)
    }
    sensors = sorted(gap_s)
    gap_us = [round(gap_s[sensor] * 1_000_000) for sensor in sensors]
    return Settings(sensor_id=np.array(sensors, np.int64), gap_us=np.array(gap_us, np.int64))
