"""The command `wq aggregate`: statistics of readings per time bucket."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table
from waterquality.v1.query_pb2 import AggregateReadingsRequest, AggregateSeries, Grouping
from waterquality.v1.query_pb2_grpc import QueryServiceStub

from water.parameter import BY_NUMBER
from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, End, Parameters, Regions, Sensors, Sites, Start, Target, reading_filter
from wq.plain import plain, print_json
from wq.show import count, make_table, number, show
from wq.when import iso, read_seconds


class By(StrEnum):
    """What shares a series."""

    SENSOR = "sensor"
    SITE = "site"
    REGION = "region"
    ALL = "all"


Bucket = Annotated[str | None, typer.Option(metavar="DURATION", help="Width of a bucket: 15m, 1h, 1d; default: all in one.")]


@says_errors
def aggregate(
    sensors: Sensors = None,
    start: Start = None,
    end: End = None,
    bucket: Bucket = None,
    by: Annotated[By, typer.Option(help="What shares a series.")] = By.SENSOR,
    percentile: Annotated[list[float] | None, typer.Option(min=0, max=100, help="Also this percentile; up to 5 times.")] = None,
    site: Sites = None,
    region: Regions = None,
    parameter: Parameters = None,
    include_failed: Annotated[bool, typer.Option("--include-failed", help="Also count values flagged FAIL.")] = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Count, mean, smallest, largest and percentiles, computed beside the data. Values flagged FAIL are left out.

    Examples:

      wq aggregate 1 --start 7d --bucket 1h --parameter ph

      wq aggregate --region utah --start 2014-06-01 --end 2014-07-01 --bucket 1d --by region --percentile 95
    """
    request = AggregateReadingsRequest(
        filter=reading_filter(sensors, site, region, start, end, parameter),
        grouping=Grouping.Value(f"GROUPING_{by.name}"),
        percentiles=percentile or (),
        include_failed=include_failed,
    )
    if bucket:
        request.bucket_duration.FromMilliseconds(round(read_seconds(bucket, "--bucket") * 1000))
    found: list[AggregateSeries] = []
    with open_channel(find_target(target)) as channel:
        stub = QueryServiceStub(channel)
        while True:
            page = stub.AggregateReadings(request, timeout=CALL_S)
            found.extend(page.series)
            request.page_token = page.next_page_token
            if not request.page_token:
                break
    if as_json:
        print_json({"series": [plain(series) for series in found], "next_page_token": ""})
    elif not found:
        show("no readings fit")
    else:
        show(_table(found, percentile or [], bucket is not None))


def _table(found: list[AggregateSeries], percentiles: list[float], has_buckets: bool) -> Table:
    more = [f"p{percent:g}" for percent in percentiles]
    table = make_table(["of", "parameter", "from"], ["values", "mean", "min", "max", *more])
    for series in found:
        parameter = BY_NUMBER.get(series.parameter)
        if parameter is None:
            continue
        for index, start_us in enumerate(series.bucket_start_us):
            numbers = [series.mean[index], series.min[index], series.max[index]]
            numbers += [column.values[index] for column in series.percentiles]
            table.add_row(
                series.group or (f"sensor {series.sensor_id}" if series.sensor_id else "all"),
                f"{parameter.label} {parameter.unit}",
                iso(start_us) if has_buckets else "all",
                count(series.count[index]),
                *(number(value, parameter) for value in numbers),
            )
        if has_buckets:
            table.add_section()
    return table
