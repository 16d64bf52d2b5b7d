"""The command `wq simulate`: a fleet of sensors that streams to a mesh, with something that happens to it."""

import asyncio
import random
from typing import Annotated, Any

import grpc
import typer
import uvloop
from rich.console import Console
from rich.live import Live
from rich.text import Text

from mesh.clock import SystemClock
from mesh.codec.gateway_frames import reason_names
from mesh.errors import Unavailable
from mesh.run import stop_on_signals
from wq.connect import find_target, open_aio_channel, says_errors
from wq.fleet import FleetRun, FleetStatistics, Sent
from wq.fleet_sensors import REGIONS, Fleet, FleetSettings
from wq.options import AsJson, Target
from wq.plain import print_json
from wq.scenarios import Course, Scenario
from wq.show import count, make_table, show
from wq.when import read_seconds

_CONNECT_S = 5.0
_ENDLESS_COURSE_S = 3600.0


@says_errors
def simulate(
    gateways: Annotated[int, typer.Option(min=1, max=1000, help="Gateways, each with streams of its own.")] = 3,
    sensors: Annotated[int, typer.Option(min=1, max=1_000_000, help="Sensors of all gateways together.")] = 200,
    period: Annotated[str, typer.Option(metavar="DURATION", help="Between two readings of a sensor.")] = "1s",
    duration: Annotated[str | None, typer.Option(metavar="DURATION", help="How long; without it until Ctrl-C.")] = None,
    scenario: Annotated[Scenario, typer.Option(help="What happens; spread over the duration, or an hour.")] = Scenario.NORMAL,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other values.")] = 1,
    region: Annotated[list[str] | None, typer.Option(metavar="REGION", help="Regions, in turn; may be repeated.")] = None,
    name: Annotated[str, typer.Option(help="Gateways are called NAME-1, NAME-2, ...; one sender each at a time.")] = "simulated",
    first_sensor: Annotated[int, typer.Option(min=1, help="Lowest sensor id.")] = 2_000_000_001,
    history: Annotated[str, typer.Option(metavar="DURATION", help="Scenario backlog: how much was stored up.")] = "2h",
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Streams the readings of simulated sensors: days, seasons, rain, demand.

    The same seed and time give the same values, so a second run goes on.

    contamination: a pulse passes some sensors of the first site in turn.

    drift, fouling: faults of the first site's first sensor.

    outage: the first gateway is away for a while; what it stored meanwhile
    goes through the backfill lane afterwards.

    backlog: every gateway sends stored-up hours (--history) at full speed
    through the backfill lane, beside its live readings.

    Ends with 0 when every reading was acknowledged.

    Examples:

      wq simulate --duration 1m

      wq simulate --gateways 10 --sensors 20000 --period 10s --json

      wq simulate --scenario outage --duration 2m --region north
    """
    duration_s = read_seconds(duration, "--duration") if duration else None
    fleet_settings = FleetSettings(
        gateways=gateways,
        sensors=sensors,
        period_s=read_seconds(period, "--period"),
        seed=seed,
        regions=tuple(region or REGIONS),
        name=name,
        first_sensor_id=first_sensor,
    )
    clock = SystemClock()
    course = Course(scenario, clock.now_us(), round((duration_s or _ENDLESS_COURSE_S) * 1e6))
    history_s = read_seconds(history, "--history") if scenario is Scenario.BACKLOG else 0.0
    run = FleetRun(Fleet(fleet_settings, course), find_target(target), clock, random.Random(), round(history_s * 1e6))
    statistics = uvloop.run(_watched(run, find_target(target), duration_s, quiet=as_json))
    if as_json:
        print_json(as_content(statistics))
    else:
        _print(statistics)


def as_content(statistics: FleetStatistics) -> dict[str, Any]:
    """The totals and each gateway, in the manner of the protos."""
    rows = [{"gateway_id": gateway_id, "region": region, **_counts(sent)} for gateway_id, region, sent in statistics.gateways]
    return {**_counts(statistics.all), "gateways": rows}


async def _check_there(target: str) -> None:
    """A gateway would wait for ever; a person wants to know at once."""
    problem = Unavailable(f"nothing answers at {target}", reason="DEADLINE_EXCEEDED")
    try:
        async with asyncio.timeout(_CONNECT_S), open_aio_channel(target) as channel:
            state = channel.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    raise problem
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        raise problem from None


async def _watched(run: FleetRun, target: str, duration_s: float | None, quiet: bool) -> FleetStatistics:
    """Runs it to its end; the first Ctrl-C ends it in order. On a terminal with a line that moves, on stderr."""
    await _check_there(target)
    console = Console(stderr=True)
    stop = asyncio.Event()
    with stop_on_signals(stop):
        async with asyncio.TaskGroup() as tasks:
            stopper = tasks.create_task(_stop_when(stop, run))
            if quiet or not console.is_terminal:
                statistics = await run.run(duration_s)
            else:
                with Live(Text("connecting ..."), console=console, auto_refresh=False, transient=True) as live:
                    statistics = await run.run(duration_s, _Line(live).show)
            stopper.cancel()
    return statistics


async def _stop_when(stop: asyncio.Event, run: FleetRun) -> None:
    await stop.wait()
    run.stop()


class _Line:
    """One line, once a second."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._before = 0

    def show(self, statistics: FleetStatistics) -> None:
        sent = statistics.all
        line = Text.assemble((f"{count(sent.acknowledged - self._before)}", "bold"), " readings/s   acknowledged ")
        line.append(count(sent.acknowledged), "bold green")
        for label, number in (("waiting", sent.buffered), ("backfilled", sent.backfilled), ("reconnects", sent.reconnects)):
            if number:
                line.append(f"   {label} {count(number)}")
        line.append(f"   ack after {sent.round_trip_s * 1000:.0f} ms")
        if sent.refused:
            line.append(f"   refused {count(sum(sent.refused.values()))}", "yellow")
        if sent.last_error:
            line.append(f"   last error: {sent.last_error[:80]}", "red")
        self._before = sent.acknowledged
        self._live.update(line, refresh=True)


def _print(statistics: FleetStatistics) -> None:
    names = ("handed over", "accepted", "refused", "backfilled", "transmitted", "reconnects")
    table = make_table(("gateway", "region"), names)
    for gateway_id, region, sent in (*statistics.gateways, ("all", "", statistics.all)):
        refused = sum(sent.refused.values())
        counts = (sent.handed_over, sent.accepted, refused, sent.backfilled, sent.transmitted, sent.reconnects)
        table.add_row(gateway_id, region, *map(count, counts))
    show(table)
    for reason, number in reason_names(statistics.all.refused).items():
        show(f"[yellow]refused[/] {reason}: {count(number)}")
    if statistics.all.last_error:
        show(f"[yellow]last error:[/] {statistics.all.last_error}")


def _counts(sent: Sent) -> dict[str, Any]:
    return {
        "handed_over_count": sent.handed_over,
        "transmitted_count": sent.transmitted,
        "acknowledged_count": sent.acknowledged,
        "accepted_count": sent.accepted,
        "refused": [
            {"reason": f"REJECTION_REASON_{reason}", "count": number} for reason, number in reason_names(sent.refused).items()
        ],
        "backfilled_count": sent.backfilled,
        "buffered_count": sent.buffered,
        "reconnect_count": sent.reconnects,
        "round_trip_seconds": round(sent.round_trip_s, 6),
        "last_error": sent.last_error,
    }
