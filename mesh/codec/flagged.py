"""water.Readings -> the bytes of a FlaggedColumns message."""

from waterquality.v1.reading_pb2 import FlaggedColumns

from mesh.codec.packed import pack_columns
from mesh.codec.wire import field
from water.readings import Readings


def pack_flagged(readings: Readings) -> bytes:
    """Serialised FlaggedColumns of the readings and their flags. Raises ValueError when there are no flags."""
    if not len(readings):
        return b""
    if readings.flags is None:
        raise ValueError("readings without flags: screen them first")
    flagged = FlaggedColumns.DESCRIPTOR
    flags = field(flagged, "flags", readings.flags.astype("<u8", copy=False).tobytes())
    return field(flagged, "readings", pack_columns(readings)) + flags
