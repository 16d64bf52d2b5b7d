"""A record of the topic `restored` <-> archived readings on their way back to the shards, with the flags they had."""

from dataclasses import dataclass

from waterquality.v1 import log_pb2

from mesh.codec.columns import read_flagged
from mesh.codec.flagged import pack_flagged
from mesh.codec.wire import decode, field, unreadable
from mesh.errors import InvalidArgument
from water.readings import Readings


@dataclass(frozen=True, slots=True)
class RestoredReadings:
    """Flagged readings of one region, and the archive object that they come from."""

    region: str
    object_path: str
    readings: Readings


def write_restored(restored: RestoredReadings) -> bytes:
    """The bytes of a RestoredBatch. Raises ValueError for readings without flags."""
    batch = log_pb2.RestoredBatch(region=restored.region, object_path=restored.object_path)
    content = pack_flagged(restored.readings)
    return batch.SerializeToString() + field(log_pb2.RestoredBatch.DESCRIPTOR, "readings", content)


def read_restored(value: bytes) -> RestoredReadings:
    """What a record of `restored` carries. Raises InvalidArgument (UNREADABLE_RECORD) for bytes that are no such record."""
    batch = decode(log_pb2.RestoredBatch, value)
    if not batch.object_path:
        raise unreadable("RestoredBatch", "it does not name the object that it comes from")
    try:
        return RestoredReadings(batch.region, batch.object_path, read_flagged(batch.readings))
    except InvalidArgument as error:
        raise unreadable("RestoredBatch", error.message) from error
