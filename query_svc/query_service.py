"""QueryService: requests of query.proto -> questions, answers -> responses. The only place of its messages."""

import asyncio
from typing import Any

import grpc
from google.protobuf.message import Message
from waterquality.v1 import query_pb2, query_pb2_grpc, reading_pb2

from mesh.codec.flagged import pack_flagged
from mesh.codec.rows import write_rows
from mesh.codec.times import read_duration, read_time, write_duration, write_time
from mesh.codec.wire import field
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Clock
from mesh.server import answers
from query_svc.aggregate import AggregateQuestion
from query_svc.answer import Answer, Paging
from query_svc.filters import ReadingFilter, check_filter
from query_svc.freshness import Freshness
from query_svc.groups import Grouping
from query_svc.places import Places
from query_svc.selection import select
from query_svc.series import Series
from query_svc.status import PipelineStatus
from query_svc.watch import Watch
from water.readings import Readings

DEFAULT_INTERVAL_US = 250_000
SHORTEST_INTERVAL_US = 50_000
LONGEST_INTERVAL_US = 3_600_000_000
_Context = grpc.aio.ServicerContext[Any, Any]


class QueryService(query_pb2_grpc.QueryServiceServicer):
    """Served by every process that can reach the shards, the catalog database and the Log."""

    def __init__(
        self, answer: Answer, places: Places, watch: Watch, status: PipelineStatus, clock: Clock, unread_s: float = 30.0
    ) -> None:
        self._answer = answer
        self._places = places
        self._watch = watch
        self._status = status
        self._clock = clock
        self._unread_s = unread_s

    @answers
    async def GetLatest(self, request: query_pb2.GetLatestRequest, context: _Context) -> query_pb2.GetLatestResponse:
        readings, token = await self._answer.get_latest(
            _filter(request.filter), Paging(request.page_size, request.page_token), _freshness(request.freshness)
        )
        return query_pb2.GetLatestResponse(latest=_flagged(readings), next_page_token=token)

    @answers
    async def ListReadings(self, request: query_pb2.ListReadingsRequest, context: _Context) -> query_pb2.ListReadingsResponse:
        found, token = await self._answer.list_readings(
            _filter(request.filter), Paging(request.page_size, request.page_token), _freshness(request.freshness)
        )
        rows = write_rows(found.readings, [region.decode() for region in found.regions.tolist()])
        return query_pb2.ListReadingsResponse(readings=rows, next_page_token=token)

    @answers
    async def AggregateReadings(
        self, request: query_pb2.AggregateReadingsRequest, context: _Context
    ) -> query_pb2.AggregateReadingsResponse:
        series, token = await self._answer.aggregate(
            _filter(request.filter),
            _question(request),
            Paging(request.page_size, request.page_token),
            _freshness(request.freshness),
        )
        messages = [_series(one, request.percentiles) for one in series]
        return query_pb2.AggregateReadingsResponse(series=messages, next_page_token=token)

    @answers
    async def StreamReadings(  # type: ignore[override]  # grpc.aio also takes a coroutine that writes
        self, request: query_pb2.StreamReadingsRequest, context: _Context
    ) -> None:
        async def write(readings: Readings, resume_token: str) -> None:
            columns = field(query_pb2.StreamReadingsResponse.DESCRIPTOR, "readings", pack_flagged(readings))
            frame = query_pb2.StreamReadingsResponse.FromString(columns)
            frame.resume_token = resume_token
            await self._write(context, frame)

        await self._answer.stream_readings(_filter(request.filter), request.resume_token, _freshness(request.freshness), write)

    @answers
    async def WatchReadings(  # type: ignore[override]  # grpc.aio also takes a coroutine that writes
        self, request: query_pb2.WatchReadingsRequest, context: _Context
    ) -> None:
        interval_s = _interval_s(request)
        asked = _filter(request.filter)
        check_filter(asked, ignore_times=True)
        selection = await select(asked, self._places)
        async with self._watch.follow(selection) as watcher:
            await context.send_initial_metadata(())
            while True:
                frame = await watcher.frame()
                await self._write(context, query_pb2.WatchReadingsResponse(readings=_flagged(frame)))
                await self._clock.sleep(interval_s)

    @answers
    async def GetPipelineStatus(
        self, request: query_pb2.GetPipelineStatusRequest, context: _Context
    ) -> query_pb2.GetPipelineStatusResponse:
        status = await self._status.status()
        stages = [
            query_pb2.StageStatus(
                stage=one.stage,
                backlog_count=one.backlog_count,
                lag_duration=write_duration(one.lag_us),
                rate_per_s=one.rate_per_s,
                problem=one.problem,
            )
            for one in status.stages
        ]
        readable = None if status.readable_us is None else write_time(status.readable_us)
        return query_pb2.GetPipelineStatusResponse(stages=stages, readable_time=readable)

    async def _write(self, context: _Context, frame: Message) -> None:
        """Raises Unavailable (ANSWER_NOT_READ) for a caller that does not read: others wait for its place."""
        try:
            async with asyncio.timeout(self._unread_s):
                await context.write(frame)
        except TimeoutError:
            problem = f"the stream was not read for {self._unread_s:g} s: ask again, with the last resume_token"
            raise Unavailable(problem, reason="ANSWER_NOT_READ") from None


def _interval_s(request: query_pb2.WatchReadingsRequest) -> float:
    interval_us = read_duration(request, "min_interval_duration", "min_interval_duration") or DEFAULT_INTERVAL_US
    if interval_us < 0:
        problem = f"{interval_us / 1e6:g} s is negative: give 0 for the default of 250 ms, or 50 ms to one hour"
        raise InvalidArgument(f"min_interval_duration: {problem}", fields={"min_interval_duration": problem})
    return min(max(interval_us, SHORTEST_INTERVAL_US), LONGEST_INTERVAL_US) / 1e6


def _filter(message: query_pb2.ReadingFilter) -> ReadingFilter:
    return ReadingFilter(
        tuple(message.sensor_ids),
        tuple(message.site_ids),
        tuple(message.regions),
        read_time(message, "start_time", "filter.start_time"),
        read_time(message, "end_time", "filter.end_time"),
        tuple(message.parameters),
        tuple(message.without_flags),
    )


def _freshness(message: query_pb2.Freshness) -> Freshness:
    wait_us = read_duration(message, "wait_duration", "freshness.wait_duration") or 0
    return Freshness(tuple(message.at_least), wait_us / 1e6)


def _question(request: query_pb2.AggregateReadingsRequest) -> AggregateQuestion:
    try:
        grouping = Grouping(request.grouping or Grouping.SENSOR)
    except ValueError as error:
        problem = f"{request.grouping} is not one of {', '.join(str(one.value) for one in Grouping)}"
        raise InvalidArgument(f"grouping: {problem}", fields={"grouping": problem}) from error
    bucket_us = read_duration(request, "bucket_duration", "bucket_duration")
    return AggregateQuestion(bucket_us, grouping, tuple(request.percentiles), request.include_failed)


def _flagged(readings: Readings) -> reading_pb2.FlaggedColumns:
    return reading_pb2.FlaggedColumns.FromString(pack_flagged(readings))


def _series(series: Series, percentiles: Any) -> query_pb2.AggregateSeries:
    return query_pb2.AggregateSeries(
        sensor_id=series.key if isinstance(series.key, int) else 0,
        group=series.key if isinstance(series.key, str) else "",
        parameter=series.parameter,  # type: ignore[arg-type]
        bucket_start_us=series.bucket_start_us.tolist(),
        count=series.count.tolist(),
        mean=series.mean.tolist(),
        min=series.min.tolist(),
        max=series.max.tolist(),
        percentiles=[
            query_pb2.PercentileColumn(percentile=percentile, values=values.tolist())
            for percentile, values in zip(percentiles, series.percentiles, strict=True)
        ],
    )
