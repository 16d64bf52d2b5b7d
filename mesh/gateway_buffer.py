"""What one lane of a gateway holds until it is acknowledged: readings, then batches to send, then batches on their way.

No waiting and no clock in here. Every reading handed over has a number, counted from 0, which it keeps until it leaves.
"""

from collections import deque
from dataclasses import dataclass

from mesh.codec.gateway_frames import unpack_columns
from mesh.codec.packed import pack_columns
from water.readings import Readings, concatenate


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Readings `first` to `first + count - 1`, encoded once and kept for every resend."""

    first: int
    count: int
    columns: bytes


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch on its way on the present stream."""

    sequence: int
    batch: PackedBatch
    frame_bytes: int
    at_s: float


@dataclass(frozen=True, slots=True)
class _Waiting:
    first: int
    readings: Readings
    at_s: float


class GatewayBuffer:
    """Three queues, oldest at the left, and everything in `in_flight` is older than `packed`, that older than the waiting.

    Readings numbered below `hurry_before` are due at once; `is_complete`: nothing more will be handed over.
    """

    def __init__(self) -> None:
        self.in_flight: deque[Launched] = deque()
        self.in_flight_bytes = 0
        self.handed_over = 0
        self.transmitted = 0
        self.acknowledged = 0
        self.dropped = 0
        self.hurry_before = 0
        self.is_complete = False
        self._packed: deque[PackedBatch] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._waiting_count = 0

    @property
    def buffered(self) -> int:
        """Readings that are neither acknowledged nor dropped."""
        return self.handed_over - self.acknowledged - self.dropped

    @property
    def is_done(self) -> bool:
        """Nothing is held and nothing more will be."""
        return self.is_complete and not self.buffered

    @property
    def oldest(self) -> int:
        """Number of the oldest reading still held; what is handed over next, when there is none."""
        if self.in_flight:
            return self.in_flight[0].batch.first
        if self._packed:
            return self._packed[0].first
        return self._waiting[0].first if self._waiting else self.handed_over

    def hand_over(self, readings: Readings, now_s: float) -> None:
        """Takes the readings, of which the arrays must not change any more."""
        if len(readings):
            self._waiting.append(_Waiting(self.handed_over, readings, now_s))
            self._waiting_count += len(readings)
            self.handed_over += len(readings)

    def drop_oldest(self, limit: int) -> int:
        """Drops until at most `limit` are held or all that is left is on its way; returns how many it dropped."""
        before = self.dropped
        while self.buffered > limit and self._packed:
            self.dropped += self._packed.popleft().count
        if (excess := min(self.buffered - limit, self._waiting_count)) > 0:
            self._cut(excess)
            self.dropped += excess
        return self.dropped - before

    def due_in_s(self, size: int, now_s: float, max_age_s: float) -> float | None:
        """Seconds until the next batch is to be sent; None: nothing is held that is not on its way. At once when one is full or
        was cut before, or is in a hurry."""
        if self._packed or self._waiting_count >= size:
            return 0.0
        if not self._waiting:
            return None
        oldest = self._waiting[0]
        return 0.0 if oldest.first < self.hurry_before else max(0.0, oldest.at_s + max_age_s - now_s)

    def head(self, size: int) -> PackedBatch:
        """The next batch to send, of at most `size` readings; it stays here until `launch`. Only while something is unsent."""
        if not self._packed:
            first = self._waiting[0].first
            readings = concatenate(self._cut(size))
            self._packed.append(PackedBatch(first, len(readings), pack_columns(readings)))
        if self._packed[0].count > size:
            self._split(size)
        return self._packed[0]

    def launch(self, sequence: int, frame_bytes: int, now_s: float) -> None:
        """The head is now on its way."""
        batch = self._packed.popleft()
        self.in_flight.append(Launched(sequence, batch, frame_bytes, now_s))
        self.in_flight_bytes += frame_bytes
        self.transmitted += batch.count

    def acknowledge(self, durable_sequence: int) -> list[Launched]:
        """Forgets the batches on their way up to this one, and returns them."""
        done: list[Launched] = []
        while self.in_flight and self.in_flight[0].sequence <= durable_sequence:
            launched = self.in_flight.popleft()
            self.in_flight_bytes -= launched.frame_bytes
            self.acknowledged += launched.batch.count
            done.append(launched)
        return done

    def disconnected(self) -> None:
        """What was on its way is to be sent again, first and in the same order."""
        self._packed.extendleft(launched.batch for launched in reversed(self.in_flight))
        self.in_flight.clear()
        self.in_flight_bytes = 0

    def _cut(self, size: int) -> list[Readings]:
        """Takes the oldest `size` of the waiting, or all."""
        parts: list[Readings] = []
        missing = size
        while missing > 0 and self._waiting:
            oldest = self._waiting.popleft()
            count = len(oldest.readings)
            if count > missing:
                rest = part(oldest.readings, missing, count)
                self._waiting.appendleft(_Waiting(oldest.first + missing, rest, oldest.at_s))
                oldest, count = _Waiting(oldest.first, part(oldest.readings, 0, missing), oldest.at_s), missing
            parts.append(oldest.readings)
            missing -= count
        self._waiting_count -= size - missing
        return parts

    def _split(self, size: int) -> None:
        """The head is too large for what is allowed now: its readings come back out of their bytes, in pieces."""
        whole = self._packed.popleft()
        readings = unpack_columns(whole.columns)
        pieces = [
            PackedBatch(whole.first + start, min(size, whole.count - start), pack_columns(part(readings, start, start + size)))
            for start in range(0, whole.count, size)
        ]
        self._packed.extendleft(reversed(pieces))


def part(readings: Readings, start: int, stop: int) -> Readings:
    """The readings from `start` up to `stop`, as views; without flags and source."""
    piece = slice(start, stop)
    return Readings(readings.sensor_id[piece], readings.measured_at_us[piece], readings.values[:, piece])
