"""The commands `wq archive ...`: what the archive holds, whether it holds what it says, and putting readings back from it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from waterquality.v1 import archive_pb2 as pb
from waterquality.v1.archive_pb2_grpc import ArchiveServiceStub
from waterquality.v1.query_pb2 import Freshness, GetLatestRequest
from waterquality.v1.query_pb2_grpc import QueryServiceStub

from mesh.errors import from_rpc
from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, Regions, Target
from wq.plain import plain, print_json
from wq.show import count, make_table, show
from wq.when import TIME_HELP, iso, read_seconds, read_time

archive = typer.Typer(no_args_is_help=True, help="The archive: history as objects, with a manifest that proves them complete.")

_AT_ONCE_S = 20
From = Annotated[
    str | None, typer.Option("--from", "--start", metavar="TIME", help=f"Objects with readings measured since. {TIME_HELP}")
]
To = Annotated[
    str | None, typer.Option("--to", "--end", metavar="TIME", help="Objects with readings measured before. As --from.")
]


@archive.command("ls")
@says_errors
def list_objects(
    region: Regions = None,
    start: From = None,
    end: To = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many objects.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Objects of the manifest, by path. Example: wq archive ls --region utah --from 7d"""
    request = pb.ListObjectsRequest(filter=_filter(region, start, end))
    found: list[pb.ArchiveObject] = []
    with open_channel(find_target(target)) as channel:
        while True:
            request.page_size = 1000 if everything else min(1000, limit - len(found))
            page = ArchiveServiceStub(channel).ListObjects(request, timeout=CALL_S)
            found.extend(page.objects)
            request.page_token = page.next_page_token
            if not request.page_token or (not everything and len(found) >= limit):
                break
    if as_json:
        print_json({"objects": [plain(each) for each in found], "next_page_token": request.page_token})
    elif not found:
        show("no objects: nothing of that is archived yet")
    else:
        show(_objects_table(found))
        if request.page_token:
            show("[dim]there are more: --limit or --all shows them[/]")


@archive.command()
@says_errors
def verify(region: Regions = None, start: From = None, end: To = None, target: Target = None, as_json: AsJson = False) -> None:
    """Reads objects again and compares them with the manifest. Ends with 1 when something is damaged.

    Examples:

      wq archive verify

      wq archive verify --region utah --from 2014-06-20 --to 2014-06-21 --json
    """
    last, damaged = pb.VerifyArchiveResponse(), list[pb.VerifyArchiveResponse]()
    with open_channel(find_target(target)) as channel, _bar("checked", "objects", as_json) as (bar, task):
        call = ArchiveServiceStub(channel).VerifyArchive(pb.VerifyArchiveRequest(filter=_filter(region, start, end)))
        for last in _all_of(call):
            bar.update(task, completed=last.checked_count, total=last.total_count)
            if last.problem or last.HasField("damaged"):
                damaged.append(last)
    if as_json:
        problems = [{"damaged": plain(each.damaged), "problem": each.problem} for each in damaged]
        print_json({"checked_count": last.checked_count, "total_count": last.total_count, "problems": problems})
    else:
        for each in damaged:
            show(f"[bold red]damaged[/] {escape(each.damaged.path)}: {escape(each.problem)}")
        objects = f"{count(last.checked_count)} objects checked"
        show(f"{objects}, [bold red]{len(damaged)} problems[/]" if damaged else f"[green]{objects}[/]: all as the manifest says")
    if damaged:
        raise typer.Exit(1)


@archive.command()
@says_errors
def restore(
    source: Annotated[
        str, typer.Option(metavar="NAME", help="An archive of the server's setting `archives`; without it the server's own.")
    ] = "",
    region: Regions = None,
    start: From = None,
    end: To = None,
    wait: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait until all of it can be read.")] = "5m",
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Puts archived readings back, with the flags they had; what is there already is left alone.

    Ctrl-C stops it, and repeating it is safe. The archive of another deployment can be restored only into an empty one: `wq up
    --no-fleet` on a new data directory.

    A reading that lost against another of the same sensor and time stays out. An archive tells which ones did some seconds after
    its objects, so this waits up to 30 s for it. What it was not told of then (the archive's deployment ended before) is put back
    last, and counted.

    Examples:

      wq archive restore

      wq archive restore --source old

      wq archive restore --region utah --from 2014-06-20 --to 2014-06-21
    """
    wait_s = read_seconds(wait, "--wait")
    last = pb.RestoreReadingsResponse()
    with open_channel(find_target(target)) as channel:
        with _bar("restored", "readings", as_json) as (bar, task):
            request = pb.RestoreReadingsRequest(filter=_filter(region, start, end), source=source)
            for last in _all_of(ArchiveServiceStub(channel).RestoreReadings(request)):
                bar.update(task, completed=last.restored_count, total=last.total_count)
        readable = _wait_until_readable(QueryServiceStub(channel), list(last.positions), wait_s)
    if as_json:
        print_json(plain(last))
    elif not last.restored_count:
        show("nothing to restore: the archive has no readings like that")
    else:
        rest = "[green]all of them can be read[/]" if readable else "they are still being recorded (`wq status`)"
        show(f"{count(last.restored_count)} readings put back; {rest}")
        if last.unproven_count:
            unproven = f"{count(last.unproven_count)} of them were archived before it was told which ones had lost"
            show(f"[yellow]{unproven}: where their keys conflict, the wrong one may stand[/] (`wq archive restore --help`)")


def _filter(region: list[str] | None, start: str | None, end: str | None) -> pb.ArchiveFilter:
    return pb.ArchiveFilter(
        regions=region or (),
        start_time=read_time(start, "--from") if start else None,
        end_time=read_time(end, "--to") if end else None,
    )


def _objects_table(objects: list[pb.ArchiveObject]) -> Table:
    """One line per object, and their sum."""
    table = make_table(["object", "first reading", "last reading", "from"], ["readings", "bytes"])
    for each in objects:
        times = (iso(each.first_time.ToMicroseconds()), iso(each.last_time.ToMicroseconds()))
        place = f"{each.log_topic}/{each.log_partition} {each.first_offset}-{each.last_offset}"
        table.add_row(escape(each.path), *times, place, count(each.reading_count), count(each.size_bytes))
    readings, size = sum(each.reading_count for each in objects), sum(each.size_bytes for each in objects)
    table.add_section()
    table.add_row(f"{len(objects)} objects", "", "", "", count(readings), count(size), style="bold")
    return table


@contextmanager
def _bar(done: str, things: str, quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    """A bar on stderr; nothing when quiet or when stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(done), BarColumn(), TextColumn("{task.completed:,} of {task.total:,} " + things), TimeRemainingColumn())
    disabled = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disabled) as bar:
        yield bar, bar.add_task(done, total=0)


def _all_of(call: Any) -> Iterator[Any]:
    """Every message of a call, which ends on the server too when nobody wants more."""
    try:
        yield from call
    finally:
        call.cancel()


def _wait_until_readable(stub: QueryServiceStub, positions: list[str], wait_s: float) -> bool:
    """Whether everything up to these positions could be read within the time."""
    deadline = time.monotonic() + wait_s
    while positions:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        fresh = Freshness(at_least=positions, wait_duration=Duration(seconds=max(1, round(min(left_s, _AT_ONCE_S)))))
        try:
            stub.GetLatest(GetLatestRequest(page_size=1, freshness=fresh), timeout=CALL_S)
            return True
        except grpc.RpcError as error:
            if from_rpc(error).reason != "NOT_YET_READABLE":
                raise
    return True
