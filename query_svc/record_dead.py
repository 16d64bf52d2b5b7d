"""What becomes of records that no shard can take: `dead` has them, but never a whole row of them (law 12)."""

from collections.abc import Iterable, Sequence

import structlog

from mesh.codec.dead_letter import dead_letter
from mesh.errors import Fault
from mesh.ports import Log, Partition
from mesh.topics import DEAD
from query_svc.arrivals import Arrival

MOST_IN_A_ROW = 100
_log = structlog.get_logger()


class Bury:
    """Puts records that cannot be recorded into `dead`, attributed by their headers: at most `most_in_a_row` of a partition with
    no good one between them. More is no accident: either we cannot read what is right, or somebody makes nothing else. Then the
    worker stops before those that would be too many, and starts again from there, until it can read them or may bury more."""

    def __init__(self, stage: str, log: Log, most_in_a_row: int = MOST_IN_A_ROW) -> None:
        self._stage = stage
        self._log = log
        self._most = most_in_a_row
        self._rows: dict[Partition, int] = {}

    async def bury(self, partition: Partition, arrivals: Sequence[Arrival]) -> None:
        """What cannot be recorded of these, the next ones of the partition, is durable in `dead` on return. Twice after a crash:
        `count` knows it by its place. Raises Fault, and buries none of them, when the row becomes too long."""
        dead = []
        row = self._rows.get(partition, 0)
        for arrival in arrivals:
            row = 0 if arrival.content is not None else row + 1
            if row:
                dead.append(arrival)
            if row > self._most:
                raise self._too_many(partition, dead[-row:])
        self._rows[partition] = row
        for arrival in dead:
            place = {"topic": partition.topic, "partition": partition.number, "offset": arrival.stored.offset}
            _log.warning("record buried", problem=arrival.problem, **place)
            letter = dead_letter(self._stage, partition, arrival.stored, arrival.problem)
            await (await self._log.append(Partition(DEAD, partition.number), letter))

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These begin anew."""
        for partition in partitions:
            self._rows.pop(partition, None)

    def _too_many(self, partition: Partition, row: Sequence[Arrival]) -> Fault:
        where = f"{partition.topic}/{partition.number} up to offset {row[-1].stored.offset}"
        message = (
            f"{where}: more than {self._most} records in a row cannot be recorded ({row[-1].problem}); those not yet in {DEAD!r}"
        )
        return Fault(f"{message} wait in the Log: mend what reads them or what makes them, or allow a longer row")
