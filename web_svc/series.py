"""What does the chart of one sensor and parameter show? Every reading where they are few, else buckets of time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from waterquality.v1 import query_pb2, query_pb2_grpc

from mesh.codec.times import write_time
from mesh.errors import InvalidArgument
from mesh.ports import Clock
from water.parameter import BY_NUMBER
from web_svc.source import CALL_S
from web_svc.words import rounded, time_us

MOST_READINGS = 10_000
BUCKETS = 600
LIVE_WITHIN_US = 600_000_000
SPANS_S = (900, 3_600, 21_600, 86_400, 604_800)


@dataclass(frozen=True, slots=True)
class SeriesQuestion:
    """One parameter (its number) of one sensor over the last `span_s` seconds."""

    sensor_id: int
    parameter: int
    span_s: int


def read_question(query: Mapping[str, str]) -> SeriesQuestion:
    """From the address's words `sensor`, `parameter` and `span_s`. Raises InvalidArgument, naming each that is wrong."""
    numbers: dict[str, int] = {}
    problems: dict[str, str] = {}
    rules: dict[str, tuple[Callable[[int], bool], str]] = {
        "sensor": (lambda number: 0 < number < 1 << 63, "a sensor's id"),
        "parameter": (lambda number: number in BY_NUMBER, f"a parameter's number, 1 to {max(BY_NUMBER)}"),
        "span_s": (lambda number: number in SPANS_S, f"one of {', '.join(map(str, SPANS_S))}"),
    }
    for name, (holds, wanted) in rules.items():
        text = query.get(name, "")
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        numbers[name] = number
        if not holds(number):
            problems[name] = f"{text[:40]!r} is not {wanted}"
    if problems:
        raise InvalidArgument("; ".join(f"{name}: {problem}" for name, problem in problems.items()), fields=problems)
    return SeriesQuestion(numbers["sensor"], numbers["parameter"], numbers["span_s"])


class ChartSeries:
    """Reads series for charts. The span ends now, or with the sensor's newest reading where that is more than ten minutes old."""

    def __init__(
        self,
        query: "query_pb2_grpc.QueryServiceAsyncStub",
        newest_us: Callable[[int], int | None],
        clock: Clock,
    ) -> None:
        self._query = query
        self._newest_us = newest_us
        self._clock = clock

    async def read(self, question: SeriesQuestion) -> dict[str, object]:
        """Columns as JSON takes them. `bucket_s` 0: `value` and `flag` of every reading; else `mean`, `min`, `max` and `count` of
        each bucket, without values flagged fail. Raises RpcError."""
        now_us = self._clock.now_us()
        newest_us = self._newest_us(question.sensor_id)
        end_us = now_us + LIVE_WITHIN_US
        if newest_us is not None and newest_us < now_us - LIVE_WITHIN_US:
            now_us, end_us = newest_us, newest_us + 1
        start_us = now_us - question.span_s * 1_000_000
        asked = query_pb2.ReadingFilter(
            sensor_ids=[question.sensor_id],
            parameters=[question.parameter],  # type: ignore[list-item]
            start_time=write_time(start_us),
            end_time=write_time(end_us),
        )
        told = {
            "sensor_id": str(question.sensor_id), "parameter": question.parameter, "start_us": start_us, "end_us": now_us,
        }  # fmt: skip
        page = await self._query.ListReadings(
            query_pb2.ListReadingsRequest(filter=asked, page_size=MOST_READINGS), timeout=CALL_S
        )
        if page.next_page_token:
            return told | await self._buckets(asked, question)
        rows = [(time_us(row.measured_time), row.values[0]) for row in page.readings if row.values]
        return told | {
            "bucket_s": 0,
            "at_us": [at_us for at_us, _ in rows],
            "value": [rounded(value.value, question.parameter) for _, value in rows],
            "flag": "".join(str(int(value.flag)) for _, value in rows),
        }

    async def _buckets(self, asked: query_pb2.ReadingFilter, question: SeriesQuestion) -> dict[str, object]:
        bucket_s = max(1, question.span_s // BUCKETS)
        request = query_pb2.AggregateReadingsRequest(filter=asked, bucket_duration=Duration(seconds=bucket_s))
        answer = await self._query.AggregateReadings(request, timeout=CALL_S)
        found = answer.series[0] if answer.series else query_pb2.AggregateSeries()
        return {
            "bucket_s": bucket_s,
            "at_us": list(found.bucket_start_us),
            "count": list(found.count),
            "mean": [rounded(value, question.parameter) for value in found.mean],
            "min": [rounded(value, question.parameter) for value in found.min],
            "max": [rounded(value, question.parameter) for value in found.max],
        }
