"""Which reading of each sensor is its newest, and which of many readings were measured first?"""

import numpy as np

from water.readings import Readings


def newest(readings: Readings) -> Readings:
    """One reading per sensor, by sensor: the one measured last, of several at one time the last in order."""
    order = np.lexsort((readings.measured_at_us, readings.sensor_id))
    sensors = readings.sensor_id[order]
    last = np.append(sensors[1:] != sensors[:-1], np.ones(min(1, len(sensors)), np.bool_))
    return readings.take(order[last])


def cut(readings: Readings, most: int) -> tuple[Readings, Readings]:
    """At most `most` of them, those that were measured first, and the others; both in the order given."""
    if len(readings) <= most:
        return readings, readings.take(np.empty(0, np.intp))
    first = np.argsort(readings.measured_at_us, kind="stable")
    return readings.take(np.sort(first[:most])), readings.take(np.sort(first[most:]))
