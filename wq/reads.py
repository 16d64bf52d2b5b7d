"""The commands that read readings: latest, readings, watch."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from waterquality.v1.query_pb2 import GetLatestRequest, ListReadingsRequest, ReadingFilter, WatchReadingsRequest
from waterquality.v1.query_pb2_grpc import QueryServiceStub
from waterquality.v1.reading_pb2 import Reading

from mesh.clock import SystemClock
from mesh.codec.columns import read_flagged, write_flagged
from water.readings import Readings, concatenate
from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, End, Parameters, Regions, Sensors, Sites, Start, Target, Without, reading_filter
from wq.plain import plain, print_json
from wq.rows import rows_as_readings
from wq.show import LEGEND, readings_table, show
from wq.when import read_seconds

_LARGEST_PAGE = 10_000


@says_errors
def latest(
    sensors: Sensors = None,
    site: Sites = None,
    region: Regions = None,
    parameter: Parameters = None,
    without: Without = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many sensors.")] = 1000,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """The newest reading of each sensor.

    Examples:

      wq latest

      wq latest 1 2 --parameter ph

      wq latest --region utah --without fail --json
    """
    asked = reading_filter(sensors, site, region, None, None, parameter, without)
    parts: list[Readings] = []
    token = ""
    with open_channel(find_target(target)) as channel:
        stub = QueryServiceStub(channel)
        while True:
            size = min(_LARGEST_PAGE, limit - sum(map(len, parts)))
            page = stub.GetLatest(GetLatestRequest(filter=asked, page_size=size, page_token=token), timeout=CALL_S)
            parts.append(read_flagged(page.latest))
            token = page.next_page_token
            if not token or sum(map(len, parts)) >= limit:
                break
    found = concatenate(parts)
    if as_json:
        answer = plain(write_flagged(found)) if len(found) else {"readings": {"sensor_id": [], "measured_at_us": []}, "flags": []}
        print_json({"latest": answer, "next_page_token": token})
    elif not len(found):
        show("no readings yet" if asked == ReadingFilter() else "no sensor that fits has a reading")
    else:
        show(readings_table(found, SystemClock().now_us()))
        show(LEGEND + (f"  [dim]the first {limit}; --limit shows more[/]" if token else ""))


@says_errors
def readings(
    sensors: Sensors = None,
    start: Start = None,
    end: End = None,
    site: Sites = None,
    region: Regions = None,
    parameter: Parameters = None,
    without: Without = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many readings.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Readings, by sensor and time.

    Examples:

      wq readings 1 --start 2h

      wq readings 1 --start 2014-06-20 --end 2014-06-21 --without fail

      wq readings --region utah --start 2014-06-20 --end 2014-07-01 --all --json
    """
    asked = reading_filter(sensors, site, region, start, end, parameter, without)
    with open_channel(find_target(target)) as channel:
        pages = _pages(QueryServiceStub(channel), asked, None if everything else limit)
        if as_json:
            _print_pages(pages)
            return
        shown, more = 0, ""
        for rows, token in pages:
            if rows:
                found = rows_as_readings(rows)
                show(readings_table(found, region=[row.region for row in rows]))
            shown += len(rows)
            more = "  [dim]there are more: --limit or --all shows them[/]" if token else ""
    show(LEGEND + more if shown else "no readings fit")


@says_errors
def watch(
    sensors: Sensors = None,
    site: Sites = None,
    region: Regions = None,
    parameter: Parameters = None,
    interval: Annotated[str, typer.Option(metavar="DURATION", help="At most one update per this long.")] = "1s",
    frames: Annotated[int, typer.Option(min=0, help="End after this many updates; 0: go on until Ctrl-C.")] = 0,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """New readings as they arrive: the newest of each sensor that changed.

    With --json one object per update.

    Examples:

      wq watch

      wq watch 1 2 --interval 5s

      wq watch --region utah --frames 10 --json
    """
    request = WatchReadingsRequest(filter=reading_filter(sensors, site, region, None, None, parameter))
    request.min_interval_duration.FromMilliseconds(round(read_seconds(interval, "--interval") * 1000))
    if not as_json:
        Console(stderr=True).print("waiting for readings; Ctrl-C ends", style="dim")
    with open_channel(find_target(target)) as channel:
        call = QueryServiceStub(channel).WatchReadings(request)
        try:
            for count, frame in enumerate(call, 1):
                if as_json:
                    print_json(plain(frame))
                else:
                    show(readings_table(read_flagged(frame.readings), SystemClock().now_us()))
                if count == frames:
                    break
        finally:
            call.cancel()


def _pages(stub: QueryServiceStub, asked: ReadingFilter, limit: int | None) -> Iterator[tuple[list[Reading], str]]:
    """Pages of rows, each with the token of the next; up to `limit` rows."""
    token, done = "", 0
    while True:
        size = _LARGEST_PAGE if limit is None else min(_LARGEST_PAGE, limit - done)
        page = stub.ListReadings(ListReadingsRequest(filter=asked, page_size=size, page_token=token), timeout=CALL_S)
        token, done = page.next_page_token, done + len(page.readings)
        yield list(page.readings), token
        if not token or (limit is not None and done >= limit):
            return


def _print_pages(pages: Iterator[tuple[list[Reading], str]]) -> None:
    """One object, written as the pages come, so that memory holds one page. Left open, so invalid, when a page fails."""
    token, between = "", ""
    for number, (rows, following) in enumerate(pages):
        sys.stdout.write("" if number else '{"readings": [')
        for row in rows:
            sys.stdout.write(between + json.dumps(plain(row), ensure_ascii=False))
            between = ", "
        token = following
    sys.stdout.write(f'], "next_page_token": {json.dumps(token)}}}\n')
