"""How well each stage is doing: what a worker tells about itself, and the table in which it tells it once a second."""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.ports import Clock, Partition
from mesh.shards import transaction

PERIOD_S = 1.0
RATE_OVER_S = 60
FORGOTTEN_AFTER_US = 600 * 1_000_000


class Progress:
    """What one worker has done so far. The worker writes it, its heartbeat reads it; nothing here is durable.

    `next_offset` is, for each partition that is the worker's now, the first offset of its source that it has not covered.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.next_offset: dict[Partition, int] = {}
        self.handled_count = 0
        self.problem = ""

    def started(self, partition: Partition, next_offset: int) -> None:
        """The partition is ours, to be read from `next_offset` on."""
        self.next_offset[partition] = next_offset

    def covered(self, partition: Partition, next_offset: int, handled_count: int) -> None:
        """The effect of everything before `next_offset` is durable; `handled_count` records were handled for it."""
        self.next_offset[partition] = next_offset
        self.handled_count += handled_count
        self.problem = ""

    def left(self, partitions: Iterable[Partition]) -> None:
        """These partitions are no longer ours."""
        for partition in partitions:
            self.next_offset.pop(partition, None)


@dataclass(frozen=True, slots=True)
class Heard:
    """The last sign of life of one worker of a stage. `rate_per_s`: records a second over the last minute."""

    stage: str
    worker: str
    at_us: int
    handled_count: int
    rate_per_s: float
    problem: str
    next_offset: Mapping[Partition, int]


class Heartbeat:
    """Writes what some workers tell of themselves into the table `stages`, once a second. `worker` names the process and stays
    the same when it is started again, so that its new life replaces the old one."""

    def __init__(self, engine: AsyncEngine, progresses: Sequence[Progress], worker: str, clock: Clock) -> None:
        self._engine = engine
        self._progresses = progresses
        self._worker = worker
        self._clock = clock
        self._past: list[deque[tuple[int, int]]] = [deque(maxlen=RATE_OVER_S + 1) for _ in progresses]

    async def run(self) -> None:
        """Runs until cancelled. Raises Unavailable when the database is away."""
        while True:
            await self.beat()
            await self._clock.sleep(PERIOD_S)

    async def beat(self) -> None:
        """One sign of life of each; forgets those that were last heard ten minutes ago."""
        now_us = self._clock.now_us()
        rows = [self._row(progress, past, now_us) for progress, past in zip(self._progresses, self._past, strict=True)]
        async with transaction(self._engine) as connection:
            await connection.execute(text(_BEAT), {"rows": json.dumps(rows), "worker": self._worker, "now_us": now_us})
            await connection.execute(text(_FORGET), {"before_us": now_us - FORGOTTEN_AFTER_US})

    async def leave(self) -> None:
        """These workers stop on purpose: nobody is to miss them."""
        async with transaction(self._engine) as connection:
            stages = [progress.stage for progress in self._progresses]
            await connection.execute(text(_LEAVE), {"worker": self._worker, "stages": stages})

    def _row(self, progress: Progress, past: deque[tuple[int, int]], now_us: int) -> dict[str, object]:
        past.append((now_us, progress.handled_count))
        (then_us, then_count), elapsed_us = past[0], now_us - past[0][0]
        return {
            "stage": progress.stage,
            "handled_count": progress.handled_count,
            "rate_per_s": (progress.handled_count - then_count) / elapsed_us * 1e6 if now_us > then_us else 0.0,
            "problem": progress.problem,
            "next_offset": [[*partition, offset] for partition, offset in progress.next_offset.items()],
        }


async def create(connection: AsyncConnection) -> None:
    """Makes the table unless it is there."""
    await connection.execute(text(_TABLE))


async def read(connection: AsyncConnection) -> list[Heard]:
    """The last sign of life of every worker that was heard in the last ten minutes or so."""
    rows = await connection.execute(text("SELECT * FROM stages ORDER BY stage, worker"))
    return [
        Heard(
            row.stage,
            row.worker,
            row.at_us,
            row.handled_count,
            row.rate_per_s,
            row.problem,
            {Partition(topic, number): offset for topic, number, offset in row.next_offset},
        )
        for row in rows
    ]


_TABLE = """
CREATE TABLE IF NOT EXISTS stages (
    stage text NOT NULL, worker text NOT NULL, at_us bigint NOT NULL, handled_count bigint NOT NULL,
    rate_per_s double precision NOT NULL, problem text NOT NULL, next_offset jsonb NOT NULL, PRIMARY KEY (stage, worker))
"""

_BEAT = """
INSERT INTO stages (stage, worker, at_us, handled_count, rate_per_s, problem, next_offset)
SELECT stage, :worker, :now_us, handled_count, rate_per_s, problem, next_offset
FROM jsonb_to_recordset(CAST(:rows AS jsonb))
    AS r (stage text, handled_count bigint, rate_per_s double precision, problem text, next_offset jsonb)
ON CONFLICT (stage, worker) DO UPDATE SET at_us = excluded.at_us, handled_count = excluded.handled_count,
    rate_per_s = excluded.rate_per_s, problem = excluded.problem, next_offset = excluded.next_offset
"""

_FORGET = "DELETE FROM stages WHERE at_us < :before_us"
_LEAVE = "DELETE FROM stages WHERE worker = :worker AND stage = ANY(CAST(:stages AS text[]))"
