"""QueryService on the wire: rows and columns say the same, errors name fields, a reader that never reads holds nothing up."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from waterquality.v1 import query_pb2, reading_pb2

import query_svc.query_service
from mesh.codec.columns import read_flagged
from mesh.codec.flagged import pack_flagged
from mesh.codec.times import read_time, write_time
from mesh.errors import InvalidArgument, Unavailable
from mesh.tokens import write_position
from mesh.topics import ACCEPTED
from tests.builders import SECOND_US, START_US
from tests.query.answering import SENSOR_COUNT, flags_of, random_readings, same
from tests.query.deployment import PATIENCE_S, FreshDatabase
from tests.query.serving import Serving, error_of, serving
from water.parameter import PARAMETERS
from water.readings import Readings, concatenate

ALL = query_pb2.ReadingFilter(sensor_ids=range(1, SENSOR_COUNT + 1))


@pytest.fixture
async def served(fresh_database: FreshDatabase) -> AsyncIterator[Serving]:
    async with serving(fresh_database) as made:
        yield made


async def test_rows_and_columns_hold_the_same_values_and_flags_and_nothing_for_what_is_absent(served: Serving) -> None:
    await served.asked.store(random_readings(200))
    stored, flags = served.asked.stored, flags_of(served.asked.stored)
    rows = (await served.query.ListReadings(query_pb2.ListReadingsRequest(filter=ALL))).readings
    frames = [frame async for frame in served.query.StreamReadings(query_pb2.StreamReadingsRequest(filter=ALL))]
    assert same(concatenate([read_flagged(frame.readings) for frame in frames]), stored)
    assert len(rows) == len(stored) == 200
    for index, row in enumerate(rows):
        at_us = row.measured_time.ToMicroseconds()
        assert (row.sensor_id, at_us, row.region) == (stored.sensor_id[index], stored.measured_at_us[index], "north")
        wanted = [
            (parameter.number, stored.values[parameter.number - 1, index], flags[parameter.number - 1, index])
            for parameter in PARAMETERS
            if not np.isnan(stored.values[parameter.number - 1, index])
        ]
        assert [(value.parameter, np.float32(value.value), value.flag) for value in row.values] == wanted


async def test_latest_and_aggregates_come_as_asked(served: Serving) -> None:
    await served.asked.store(random_readings(240))
    latest = await served.query.GetLatest(query_pb2.GetLatestRequest(filter=ALL))
    assert latest.latest.readings.sensor_id == list(range(1, SENSOR_COUNT + 1))
    answer = await served.query.AggregateReadings(
        query_pb2.AggregateReadingsRequest(
            filter=query_pb2.ReadingFilter(regions=["north"], parameters=[reading_pb2.PARAMETER_PH]),
            bucket_duration=Duration(seconds=60),
            grouping=query_pb2.GROUPING_REGION,
            percentiles=[50, 5],
        )
    )
    (series,) = answer.series
    assert (series.group, series.sensor_id, series.parameter) == ("north", 0, reading_pb2.PARAMETER_PH)
    assert [column.percentile for column in series.percentiles] == [50, 5]
    statistics = {len(column) for column in (series.count, series.bucket_start_us)}
    statistics |= {len(column) for column in (series.mean, series.min, series.max)}
    assert statistics | {len(column.values) for column in series.percentiles} == {4}


async def test_errors_name_the_field_and_the_mend(served: Serving) -> None:
    wrong_time = query_pb2.ReadingFilter(sensor_ids=[1], start_time=Timestamp(seconds=10**12))
    for filter_, field in (
        (query_pb2.ReadingFilter(sensor_ids=[-1]), "filter.sensor_ids"),
        (query_pb2.ReadingFilter(), "filter"),
        (query_pb2.ReadingFilter(sensor_ids=[1], parameters=[99]), "filter.parameters"),  # type: ignore[list-item]
        (wrong_time, "filter.start_time"),
    ):
        error = await error_of(served.query.ListReadings(query_pb2.ListReadingsRequest(filter=filter_)))
        assert isinstance(error, InvalidArgument)
        assert list(error.fields) == [field]
    grouping = query_pb2.AggregateReadingsRequest(filter=ALL, grouping=9)  # type: ignore[arg-type]
    assert "grouping" in (await error_of(served.query.AggregateReadings(grouping))).fields
    stream = served.query.StreamReadings(query_pb2.StreamReadingsRequest(filter=ALL, resume_token="x"))
    assert "resume_token" in (await error_of(stream.read())).fields
    negative = query_pb2.WatchReadingsRequest(min_interval_duration=Duration(seconds=-1))
    assert "min_interval_duration" in (await error_of(served.query.WatchReadings(negative).read())).fields


async def test_a_query_waits_until_what_was_acknowledged_can_be_read(served: Serving) -> None:
    log_id = served.asked.deployment.log.log_id
    await served.asked.store(random_readings(20))
    had = query_pb2.Freshness(at_least=[write_position(log_id, ACCEPTED, 0, 0)])
    assert (await served.query.ListReadings(query_pb2.ListReadingsRequest(filter=ALL, freshness=had))).readings
    soon = Duration(nanos=50_000_000)
    not_yet = query_pb2.Freshness(at_least=[write_position(log_id, ACCEPTED, 0, 1)], wait_duration=soon)
    for call in (
        served.query.ListReadings(query_pb2.ListReadingsRequest(filter=ALL, freshness=not_yet)),
        served.query.GetLatest(query_pb2.GetLatestRequest(freshness=not_yet)),
        served.query.AggregateReadings(query_pb2.AggregateReadingsRequest(filter=ALL, freshness=not_yet)),
        served.query.StreamReadings(query_pb2.StreamReadingsRequest(filter=ALL, freshness=not_yet)).read(),
    ):
        error = await error_of(call)
        assert isinstance(error, Unavailable)
        assert (error.reason, error.retry_after_s) == ("NOT_YET_READABLE", 1.0)


async def test_a_reader_that_never_reads_holds_back_its_own_stream_and_nobody_else(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []

    def counting(readings: Readings) -> bytes:
        packed.append(len(readings))
        return pack_flagged(readings)

    for part in range(4):
        await served.asked.store(random_readings(100_000, seed=part, sensors=50, start=START_US + part * 86_400 * SECOND_US))
    monkeypatch.setattr(query_svc.query_service, "pack_flagged", counting)
    call = served.query.StreamReadings(query_pb2.StreamReadingsRequest(filter=query_pb2.ReadingFilter(regions=["north"])))
    await call.wait_for_connection()
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(30):
            await served.query.ListReadings(query_pb2.ListReadingsRequest(filter=ALL, page_size=10))
    assert packed.count(20_000) < 15, "most of the 20 frames should still wait"
    count = 0
    async for frame in call:
        count += len(frame.readings.readings.sensor_id)
    assert count == 400_000


async def test_times_are_rounded_up_so_that_whole_microseconds_compare_alike() -> None:
    asked = query_pb2.ReadingFilter(
        start_time=Timestamp(seconds=START_US // SECOND_US, nanos=1), end_time=write_time(START_US - 1)
    )
    assert read_time(asked, "start_time", "x") == START_US + 1
    assert read_time(asked, "end_time", "x") == START_US - 1
    assert read_time(query_pb2.ReadingFilter(), "end_time", "x") is None
