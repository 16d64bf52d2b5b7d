"""What does an archive object hold, whatever its format: readings of one region, and the place in the log of each?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidArgument
from mesh.ports import Partition
from water.readings import Readings, concatenate


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where each reading stands in the log: in which of `partitions` (`of`, int32), `offset` (int64) is its record's, `index`
    (int32) its place within that record."""

    partitions: tuple[Partition, ...]
    of: NDArray[np.int32]
    offset: NDArray[np.int64]
    index: NDArray[np.int32]

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "Places":
        """The places at these positions (or where the mask is true), in that order."""
        return Places(self.partitions, self.of[index], self.offset[index], self.index[index])


@dataclass(frozen=True, slots=True, eq=False)
class Unpacked:
    """What an object, or a piece of one, holds: in its order, which is by sensor and measured time. The readings have flags."""

    readings: Readings
    region: str
    places: Places
    log_id: str

    def __len__(self) -> int:
        return len(self.readings)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "Unpacked":
        """As Readings.take."""
        return replace(self, readings=self.readings.take(index), places=self.places.take(index))

    def in_order(self) -> "Unpacked":
        """By sensor, measured time and place: the order of a chunk's object, whose places are in one partition."""
        readings, places = self.readings, self.places
        return self.take(np.lexsort((places.index, places.offset, readings.measured_at_us, readings.sensor_id)))


def in_partition(partition: Partition, offset: NDArray[np.int64], index: NDArray[np.int32]) -> Places:
    """Places that are all in one partition."""
    return Places((partition,), np.zeros(len(offset), np.int32), offset, index)


def join(pieces: Sequence[Unpacked]) -> Unpacked:
    """All readings of pieces (one at least) of one region and log, in order."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    for name in ("region", "log_id"):
        if len({getattr(piece, name) for piece in pieces}) > 1:
            raise unreadable(f"its pieces are of more than one {name}")
    partitions = tuple(dict.fromkeys(partition for piece in pieces for partition in piece.places.partitions))
    number = {partition: place for place, partition in enumerate(partitions)}
    of = [np.array([number[one] for one in piece.places.partitions], np.int32)[piece.places.of] for piece in pieces]
    places = Places(
        partitions,
        np.concatenate(of),
        np.concatenate([piece.places.offset for piece in pieces]),
        np.concatenate([piece.places.index for piece in pieces]),
    )
    return Unpacked(concatenate([piece.readings for piece in pieces]), first.region, places, first.log_id)


def unreadable(problem: str) -> InvalidArgument:
    """The error for bytes that are no object of ours."""
    return InvalidArgument(f"no object of this archive: {problem[:300]}", reason="UNREADABLE_OBJECT")
