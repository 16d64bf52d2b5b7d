"""How alerts are watched in a terminal: a table that moves, or a line for each change where nothing can move."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.live import Live
from waterquality.v1 import alert_pb2 as pb
from waterquality.v1.alert_pb2_grpc import AlertServiceStub

from mesh.clock import SystemClock
from wq.plain import plain, print_json
from wq.show_alerts import alerts_table, state

MOST_SHOWN = 100


def watch_alerts(stub: AlertServiceStub, asked: pb.AlertFilter, as_json: bool) -> None:
    """Until Ctrl-C or the end of the stream. With JSON one object on a line for each change; else a table of the open alerts,
    or where standard output is no terminal, a line for each change."""
    call = stub.WatchAlerts(pb.WatchAlertsRequest(filter=asked))
    console = Console()
    try:
        if as_json:
            for news in call:
                print_json(plain(news))
        elif console.is_terminal:
            _move(call, asked, console)
        else:
            for news in call:
                alert = news.alert
                console.print(
                    f"{alert.alert_id}  {state(alert.state)}  {alert.summary}", highlight=False, markup=False, soft_wrap=True
                )
    finally:
        call.cancel()


def _move(call: Iterable[pb.WatchAlertsResponse], asked: pb.AlertFilter, console: Console) -> None:
    shown: dict[int, pb.Alert] = {}
    with Live("waiting for alerts; Ctrl-C ends", console=console, refresh_per_second=4, vertical_overflow="ellipsis") as live:
        for news in call:
            alert = news.alert
            if alert.state == pb.ALERT_STATE_RESOLVED or (asked.states and alert.state not in asked.states):
                shown.pop(alert.alert_id, None)
            else:
                shown[alert.alert_id] = alert
            live.update(_table(shown))


def _table(shown: dict[int, pb.Alert]) -> RenderableType:
    """The worst first, then the newest."""
    alerts = sorted(shown.values(), key=lambda alert: (-alert.severity_level, -alert.raised_time.ToMicroseconds()))
    return alerts_table(alerts[:MOST_SHOWN], SystemClock().now_us()) if alerts else "no open alerts; Ctrl-C ends"
