"""The command `wq ledger`: what became of every reading, and whether it adds up."""

import time
from typing import Annotated

import typer
from waterquality.v1.ledger_pb2 import GetLedgerRequest, LedgerEntry
from waterquality.v1.ledger_pb2_grpc import LedgerServiceStub

from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, Target
from wq.plain import plain, print_json
from wq.show import count, make_table, show
from wq.totals import Totals, total
from wq.when import TIME_HELP, iso, read_seconds, read_time

_PAUSE_S = 0.3
Gateways = Annotated[list[str] | None, typer.Option("--gateway", metavar="GATEWAY", help="Only this gateway; may be repeated.")]


@says_errors
def ledger(
    gateway: Gateways = None,
    start: Annotated[str | None, typer.Option(metavar="TIME", help=f"Hours that start at or after this. {TIME_HELP}")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Hours that start before this.")] = None,
    wait: Annotated[str | None, typer.Option(metavar="DURATION", help="Wait until every stage has caught up.")] = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """What became of every reading, per gateway and hour of arrival.

    Ends with 1 when the pipeline has caught up and the counts do not add up, or when it has not caught up within --wait.

    Examples:

      wq ledger

      wq ledger --gateway replay --wait 30s

      wq ledger --start 1d --json
    """
    request = GetLedgerRequest(
        gateway_ids=gateway or (),
        start_time=read_time(start, "--start") if start else None,
        end_time=read_time(end, "--end") if end else None,
        page_size=10_000,
    )
    wait_s = read_seconds(wait, "--wait") if wait else 0.0
    with open_channel(find_target(target)) as channel:
        stub = LedgerServiceStub(channel)
        deadline = time.monotonic() + wait_s
        entries, caught_up, balanced = _ask(stub, request)
        while not caught_up and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            entries, caught_up, balanced = _ask(stub, request)
    if as_json:
        answer = {"entries": [plain(entry) for entry in entries], "next_page_token": ""}
        print_json(answer | {"caught_up": caught_up, "balanced": balanced})
    else:
        _print(entries, caught_up, balanced)
    if (caught_up and not balanced) or (wait_s and not caught_up):
        raise typer.Exit(1)


def _ask(stub: LedgerServiceStub, request: GetLedgerRequest) -> tuple[list[LedgerEntry], bool, bool]:
    """All pages: entries, and what holds for each of them."""
    entries: list[LedgerEntry] = []
    caught_up = balanced = True
    asked = GetLedgerRequest()
    asked.CopyFrom(request)
    while True:
        page = stub.GetLedger(asked, timeout=CALL_S)
        entries.extend(page.entries)
        caught_up, balanced = caught_up and page.caught_up, balanced and page.balanced
        asked.page_token = page.next_page_token
        if not asked.page_token:
            return entries, caught_up, balanced


def _print(entries: list[LedgerEntry], caught_up: bool, balanced: bool) -> None:
    if not entries:
        show("the ledger has nothing for that: no reading has arrived")
        return
    numbers = ["sent", "accepted", "refused", "stored", "duplicate", "conflicting", "dead", "archived"]
    table = make_table(["gateway", "hour", "counts are", "refused because"], numbers)
    for entry in entries:
        hour = iso(entry.hour_time.ToMicroseconds())
        table.add_row(entry.gateway_id, hour, *_cells(total([entry]), "final" if entry.settled else "growing"))
    if len(entries) > 1:
        table.add_section()
        table.add_row("all", "", *_cells(total(entries), ""), style="bold")
    show(table)
    if not caught_up:
        show("[yellow]the pipeline has not caught up yet[/]: counts are still growing (--wait 30s waits)")
    elif balanced:
        kept = ", and archived" if any(entry.archived_count for entry in entries) else ""
        show(f"[green]caught up and balanced[/]: every accepted reading is stored, a duplicate, conflicting or dead{kept}")
    else:
        laws = "stored + duplicate + conflicting + dead, or not archived + dead"
        show(f"[bold red]caught up, but the counts do not add up[/]: accepted is not {laws}")


def _cells(counts: Totals, state: str) -> list[str]:
    because = ", ".join(f"{reason} {count(number)}" for reason, number in counts.refused.items())
    dead = counts.dead_at_screen + counts.dead_at_record + counts.dead_at_archive
    refused = counts.sent - counts.accepted
    recorded = (counts.stored, counts.duplicate, counts.conflicting)
    return [state, because, *map(count, (counts.sent, counts.accepted, refused, *recorded, dead, counts.archived))]
