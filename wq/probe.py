"""The command `wq probe`: a self-test of a live mesh. It writes known readings and reads them back by every path."""

import asyncio
import re
import socket
from contextlib import AsyncExitStack
from typing import Annotated, Any

import grpc
import typer
import uvloop
from rich.console import Console
from rich.markup import escape

from mesh.clock import SystemClock
from mesh.errors import from_rpc
from mesh.run import stop_on_signals
from mesh.telemetry import serve_metrics
from wq.connect import find_target, open_aio_channel, says_errors
from wq.options import AsJson, Target
from wq.plain import print_json
from wq.probe_alarm import AlarmPath, alarm_rule
from wq.probe_metrics import ProbeMetrics
from wq.probe_round import SENSORS, Outcome, Probe, ProbeSettings
from wq.probe_watch import watching
from wq.stopping import Interrupted, unless_set
from wq.when import iso, read_seconds

_HOST = "127.0.0.1"


@says_errors
def probe(
    every: Annotated[str, typer.Option(metavar="DURATION", help="From one round's begin to the next's.")] = "10s",
    once: Annotated[
        bool, typer.Option("--once", help="One round, then wait for its archive; exit code 1 if anything is wrong.")
    ] = False,
    within: Annotated[str, typer.Option(metavar="DURATION", help="How long a path may take to bring readings back.")] = "10s",
    archive_within: Annotated[str, typer.Option(metavar="DURATION", help="How long archiving may take.")] = "5m",
    alarms: Annotated[
        bool, typer.Option("--alarms", help="Also raise and resolve an alert each round, by a rule of the probe's own.")
    ] = False,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Write through the backfill lane: no watch, and no silence alert afterwards.")
    ] = False,
    region: Annotated[str, typer.Option(help="Region of the probe's readings.")] = "probe",
    gateway: Annotated[str | None, typer.Option(help="Gateway id; nobody else may use it. Default: probe-HOSTNAME.")] = None,
    first_sensor: Annotated[
        int, typer.Option(min=1, help=f"It and the {SENSORS} ids after it are the probe's alone.")
    ] = 9_000_000_000_000_000_001,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this loopback port; 0 takes a free one.")
    ] = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Writes known readings to a live mesh and reads them back by every path.

    Each round: SubmitBatch, then GetLatest, ListReadings, StreamReadings,
    AggregateReadings, WatchReadings, the ledger of its gateway, the state of
    the pipeline and the manifest of the archive; with --alarms an alert too,
    of severity 1, of which webhooks are told.

    One line a round; a round that failed says where. A probe that ended is a
    gateway that went quiet: an alert of silence tells of it, but with
    --backfill.

    Examples:

      wq probe --once

      wq probe --every 1m --metrics-port 9464
    """
    settings = ProbeSettings(
        gateway_id=gateway or f"probe-{re.sub(r'[^a-zA-Z0-9._-]', '-', socket.gethostname())}"[:50],
        region=region,
        first_sensor=first_sensor,
        within_s=read_seconds(within, "--within"),
        archive_within_s=read_seconds(archive_within, "--archive-within"),
        backfill=backfill,
        alarms=alarms,
    )
    every_s = None if once else read_seconds(every, "--every")
    well = uvloop.run(_probe(settings, find_target(target), every_s, metrics_port, as_json))
    if once and not well:
        raise typer.Exit(1)


async def _probe(settings: ProbeSettings, target: str, every_s: float | None, metrics_port: int | None, as_json: bool) -> bool:
    """Whether the last round was well."""
    stop = asyncio.Event()
    told = ProbeMetrics()
    with stop_on_signals(stop):
        async with AsyncExitStack() as stack:
            if metrics_port is not None:
                port = stack.enter_context(serve_metrics(told.metrics, _HOST, metrics_port))
                Console(stderr=True).print(f"metrics  http://{_HOST}:{port}/metrics", highlight=False)
            try:
                one = await unless_set(stop, _begin(stack, settings, target))
                return await unless_set(stop, _rounds(one, every_s, told, as_json))
            except Interrupted:
                return True


async def _begin(stack: AsyncExitStack, settings: ProbeSettings, target: str) -> Probe:
    """Raises Unavailable when nobody answers there."""
    channel = await stack.enter_async_context(open_aio_channel(target))
    clock = SystemClock()
    try:
        alarm = None
        if settings.alarms:
            path = AlarmPath(channel, clock, settings.gateway_id, settings.region, settings.first_sensor + SENSORS)
            alarm = await stack.enter_async_context(alarm_rule(path))
        sensors = range(settings.first_sensor, settings.first_sensor + SENSORS)
        seen = None if settings.backfill else await stack.enter_async_context(watching(channel, sensors))
        one = Probe(settings, channel, clock, seen, alarm)
        await one.begin()
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None
    return one


async def _rounds(one: Probe, every_s: float | None, told: ProbeMetrics, as_json: bool) -> bool:
    """Until cancelled, or one when `every_s` is None."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    while True:
        at_us = one.clock.now_us()
        outcomes = await one.round()
        if every_s is None and not outcomes[0].problem:
            outcomes = [*(outcome for outcome in outcomes if outcome.path != "archive"), await one.archived()]
        told.note(outcomes)
        _say(at_us, outcomes, as_json)
        if every_s is None:
            return not any(outcome.problem for outcome in outcomes)
        due_s = max(due_s + every_s, loop.time())
        await asyncio.sleep(due_s - loop.time())


def _say(at_us: int, outcomes: list[Outcome], as_json: bool) -> None:
    """One line, or one JSON object."""
    failed = [outcome for outcome in outcomes if outcome.problem]
    if as_json:
        paths = {outcome.path: _content(outcome) for outcome in outcomes}
        print_json({"time": iso(at_us), "ok": not failed, "paths": paths})
        return
    took = "  ".join(f"{outcome.path} {outcome.seconds * 1000:.0f} ms" for outcome in outcomes if not outcome.problem)
    wrong = "; ".join(f"{outcome.path}: {outcome.problem}" for outcome in failed)
    verdict = f"[bold red]FAILED[/] {escape(wrong)}  " if failed else "[green]ok[/]  "
    Console(soft_wrap=True).print(f"{iso(at_us)}  {verdict}{took}", highlight=False)


def _content(outcome: Outcome) -> dict[str, Any]:
    return {"seconds": round(outcome.seconds, 6), "problem": outcome.problem}
