"""How well each stage is doing: what a worker tells about itself, and the table in which it tells it once a second."""

from collections.abc import Iterable

from mesh.ports import Partition


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
