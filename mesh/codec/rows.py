"""water.Readings -> Reading messages: rows, for people and programs that prefer them to columns."""

from collections.abc import Sequence

from waterquality.v1.reading_pb2 import Reading, Value

from mesh.codec.times import write_time
from water import flags as qartod
from water.parameter import PARAMETERS
from water.readings import Readings


def write_rows(readings: Readings, regions: Sequence[str]) -> list[Reading]:
    """One message per reading, in order, without its absent values. For a page at a time: this loops over readings."""
    if readings.flags is None:
        raise ValueError("readings without flags: screen them first")
    present = (readings.values == readings.values).T.tolist()
    values, flags = readings.values.T.tolist(), qartod.unpack(readings.flags).T.tolist()
    numbers = [parameter.number for parameter in PARAMETERS]
    return [
        Reading(
            sensor_id=sensor_id,
            measured_time=write_time(measured_at_us),
            region=region,
            values=[
                Value(parameter=number, value=value, flag=flag)  # type: ignore[arg-type]
                for number, there, value, flag in zip(numbers, present[row], values[row], flags[row], strict=True)
                if there
            ],
        )
        for row, (sensor_id, measured_at_us, region) in enumerate(
            zip(readings.sensor_id.tolist(), readings.measured_at_us.tolist(), regions, strict=True)
        )
    ]
