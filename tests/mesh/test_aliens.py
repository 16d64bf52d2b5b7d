"""What anybody may put into the screened topics is told from what our screener wrote, and stops no reader."""

from mesh.adapters.postgres_log import PostgresLog
from mesh.aliens import is_alien, last_of_ours, without_aliens
from mesh.codec.stamp import Stamp, write_source, write_stamp
from mesh.ports import Partition, Record, Stored
from mesh.topics import ACCEPTED, SCREENED

HERE = Partition(SCREENED, 0)
OURS = write_stamp(Stamp("g", 0, 1)) | write_source(7, 6)


def test_a_record_with_our_headers_is_ours_and_any_other_is_not() -> None:
    assert not is_alien(Stored(0, Record(b"", OURS), 0))
    assert not is_alien(Stored(0, Record(b"garbage", write_source(7, 6)), 0))
    for headers in ({}, {"source": "seven"}, {"source": "7"}, OURS | {"hour": "noon"}, {"gateway": "g", "source": "7:6"}):
        assert is_alien(Stored(0, Record(b"", headers), 0)), headers


def test_only_screened_topics_are_looked_through() -> None:
    records = [Stored(0, Record(b"poison"), 0), Stored(1, Record(b"", OURS), 0)]
    assert without_aliens(HERE, records) == records[1:]
    assert without_aliens(Partition(ACCEPTED, 0), records) == records


async def test_the_newest_of_ours_is_found_behind_any_number_of_others(postgres_log: PostgresLog) -> None:
    assert await last_of_ours(postgres_log, HERE) is None
    offset = await (await postgres_log.append(HERE, Record(b"mine", OURS)))
    for _ in range(150):
        last = await postgres_log.append(HERE, Record(b"poison"))
    await last
    found = await last_of_ours(postgres_log, HERE)
    assert found is not None
    assert (found.offset, found.record.value) == (offset, b"mine")


async def test_where_there_are_only_others_there_is_none_of_ours(postgres_log: PostgresLog) -> None:
    for _ in range(70):
        last = await postgres_log.append(HERE, Record(b"poison"))
    await last
    assert await last_of_ours(postgres_log, HERE) is None
