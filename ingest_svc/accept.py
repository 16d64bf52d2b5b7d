"""The first arrow: a gateway's batch -> the Log. What is handed over here may be acknowledged once `durable` returns."""

import asyncio
from dataclasses import dataclass

from ingest_svc.judge import Limits, Reason, Refusal, judge
from ingest_svc.room import Room
from mesh.codec.ingest_frames import BatchFrame, Opening, Unequal
from mesh.codec.log_records import write_accepted, write_refused
from mesh.codec.stamp import Stamp, hour_of, write_stamp
from mesh.errors import Unavailable
from mesh.ports import Clock, Log, Partition, Record
from mesh.stages import Progress
from mesh.tokens import write_position
from mesh.topics import ACCEPTED, BACKFILL, REFUSED, partition_of

QUEUED_WITHIN_S = 20.0  # with the 10 s of a commit, nothing is appended 30 s after its stamp (law 1)
BATCHES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Handed:
    """A batch on its way into the Log: what was refused, and what must be durable before it may be acknowledged."""

    sequence: int
    size_bytes: int
    handed_at_us: int
    refusals: tuple[Refusal, ...]
    accepted: asyncio.Future[int] | None
    refused: asyncio.Future[int] | None

    @property
    def is_done(self) -> bool:
        """Whether every delivery has ended, well or not."""
        return all(delivery.done() for delivery in self.deliveries)

    @property
    def deliveries(self) -> tuple[asyncio.Future[int], ...]:
        """What is still to become durable."""
        return tuple(delivery for delivery in (self.accepted, self.refused) if delivery is not None)


class Acceptor:
    """Judges batches and appends them. Safe for many streams at once; keeps nothing of a gateway between batches. Decode a batch
    and hand it over inside `room`."""

    def __init__(self, log: Log, clock: Clock, limits: Limits, progress: Progress) -> None:
        self._log = log
        self._clock = clock
        self._limits = limits
        self._progress = progress
        self.room = Room(BATCHES_AT_ONCE, QUEUED_WITHIN_S)

    async def hand_over(self, opening: Opening, frame: BatchFrame) -> Handed:
        """Queues the batch for the Log, waiting while its buffer is full; raises Unavailable when it stays so. Batches of one
        caller keep their order."""
        now_us = self._clock.now_us()
        sequence, batch, size_bytes = frame
        if isinstance(batch, Unequal):
            refusals: tuple[Refusal, ...] = (Refusal(Reason.COLUMNS_UNEQUAL, batch.count),)
            accepted, refused_source = None, batch.source
        else:
            verdict = judge(batch, size_bytes, now_us, self._limits)
            refusals, accepted, refused_source = verdict.refusals, verdict.accepted, verdict.refused
        stored = refused = None
        try:
            async with asyncio.timeout(QUEUED_WITHIN_S):
                if accepted is not None and len(accepted):
                    value = write_accepted(opening.gateway_id, sequence, opening.region, now_us, accepted)
                    topic = BACKFILL if opening.backfill else ACCEPTED
                    stored = await self._append(topic, opening, value, now_us, len(accepted), ())
                if refusals:
                    value = write_refused(opening.gateway_id, sequence, opening.region, now_us, refusals, refused_source)
                    count = sum(refusal.count for refusal in refusals)
                    refused = await self._append(REFUSED, opening, value, now_us, count, refusals)
        except TimeoutError:
            problem = f"the log took no records for {QUEUED_WITHIN_S:.0f} s: resend on a new stream"
            raise Unavailable(problem, reason="LOG_UNAVAILABLE") from None
        self._progress.handled_count += 1
        return Handed(sequence, size_bytes, now_us, refusals, stored, refused)

    def position(self, opening: Opening, offset: int) -> str:
        """The token for `at_least` of a batch that became durable at this offset."""
        topic = BACKFILL if opening.backfill else ACCEPTED
        return write_position(self._log.log_id, topic, self._partition(opening), offset)

    async def _append(
        self, topic: str, opening: Opening, value: bytes, now_us: int, count: int, refusals: tuple[Refusal, ...]
    ) -> asyncio.Future[int]:
        reasons: dict[int, int] = {}
        for refusal in refusals:
            reasons[refusal.reason] = reasons.get(refusal.reason, 0) + refusal.count
        stamp = Stamp(opening.gateway_id, hour_of(now_us), count, reasons)
        return await self._log.append(Partition(topic, self._partition(opening)), Record(value, write_stamp(stamp)))

    def _partition(self, opening: Opening) -> int:
        return partition_of(opening.region, opening.gateway_id, self._log.partition_count)
