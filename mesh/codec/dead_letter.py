"""A record that a stage gives up on, as the record of `dead` that keeps it (law 12)."""

from mesh.codec.log_records import Dead, write_dead
from mesh.codec.stamp import NOBODY, read_stamp, write_stamp
from mesh.ports import Partition, Record, Stored

MOST_PROBLEM_CHARACTERS = 500


def dead_letter(stage: str, partition: Partition, stored: Stored, problem: str) -> Record:
    """Attributed by the headers of what it keeps, to nobody where they cannot be read. The same record again after a crash is
    known by its place."""
    try:
        stamp = read_stamp(stored.record.headers)
    except ValueError:
        stamp = NOBODY
    dead = Dead(
        stage=stage,
        topic=partition.topic,
        partition=partition.number,
        offset=stored.offset,
        gateway_id=stamp.gateway_id,
        hour_us=stamp.hour_us,
        reading_count=stamp.count,
        problem=problem[:MOST_PROBLEM_CHARACTERS],
        content=stored.record.value,
    )
    return Record(write_dead(dead), {} if stamp is NOBODY else write_stamp(stamp))
