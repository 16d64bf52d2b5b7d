"""water.Readings -> the bytes of a ReadingColumns message, for those who only pass them on.

The columns are packed fixed-width little-endian values (protobuf encoding: a tag, a length, the values), which is how numpy
holds them: some 15 us for 1,000 readings, where filling a message and serialising it takes 600.
"""

from waterquality.v1.reading_pb2 import ReadingColumns

from water.parameter import PARAMETERS
from water.readings import Readings

_LENGTH_DELIMITED = 2
_SENSOR_ID, _MEASURED_AT, *_VALUES = (
    bytes([ReadingColumns.DESCRIPTOR.fields_by_name[name].number << 3 | _LENGTH_DELIMITED])
    for name in ("sensor_id", "measured_at_us", *(parameter.column for parameter in PARAMETERS))
)
MAX_READING_BYTES = 8 + 8 + 4 * len(PARAMETERS)
"""What one reading takes at most."""
MAX_COLUMNS_BYTES = (1 + 5) * (2 + len(PARAMETERS))
"""What the tags and lengths of all columns take at most."""


def pack_columns(readings: Readings) -> bytes:
    """Serialised ReadingColumns that parse to the same as `write_columns(readings)`; a parameter that no reading has stays an
    empty column. Flags are not written."""
    if isinstance(readings.source, ReadingColumns):
        return readings.source.SerializeToString()
    if not len(readings):
        return b""
    eights, fours = varint(8 * len(readings)), varint(4 * len(readings))
    parts = [_SENSOR_ID, eights, readings.sensor_id.astype("<i8", copy=False).tobytes()]
    parts += (_MEASURED_AT, eights, readings.measured_at_us.astype("<i8", copy=False).tobytes())
    present = (readings.values == readings.values).any(axis=1).tolist()  # NaN is what differs from itself
    for tag, row, is_present in zip(_VALUES, readings.values.astype("<f4", copy=False), present, strict=True):
        if is_present:
            parts += (tag, fours, row.tobytes())
    return b"".join(parts)


def varint(number: int) -> bytes:
    """A number that is not negative, as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
