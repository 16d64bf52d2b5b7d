"""The commands `wq alerts ...`: conditions that need a person, and what people do with them."""

import os
from enum import StrEnum
from typing import Annotated

import typer
from waterquality.v1 import alert_pb2 as pb
from waterquality.v1.alert_pb2_grpc import AlertServiceStub

from mesh.clock import SystemClock
from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, Regions, Sites, Target
from wq.plain import plain, print_json
from wq.show import show
from wq.show_alerts import alert_table, alerts_table, evidence_table, history_table
from wq.watch_alerts import watch_alerts

alerts = typer.Typer(invoke_without_command=True, help="Alerts: conditions that need a person, and what people do with them.")

AlertId = Annotated[int, typer.Argument(metavar="ALERT", help="Alert id.")]
Actor = Annotated[str | None, typer.Option(metavar="NAME", help="Who acts, for the history; default: $USER.")]
_PAGE = 1000
LONGEST_ACTOR = 100


class State(StrEnum):
    """State of an alert, after ISA-18.2."""

    UNACKNOWLEDGED = "unacknowledged"
    ACKNOWLEDGED = "acknowledged"
    RETURNED_UNACKNOWLEDGED = "returned"
    SHELVED = "shelved"
    SUPPRESSED = "suppressed"
    OUT_OF_SERVICE = "out-of-service"
    RESOLVED = "resolved"


class Kind(StrEnum):
    """What an alert is about."""

    CONTAMINATION = "contamination"
    LIMIT = "limit"
    FORECAST = "forecast"
    MAINTENANCE = "maintenance"
    SILENCE = "silence"


Everything = Annotated[bool, typer.Option("--all", help="Also those that are over, and history.")]
States = Annotated[
    list[State] | None, typer.Option("--state", help="Only in this state; may be repeated. Default: all open ones.")
]
Kinds = Annotated[list[Kind] | None, typer.Option("--kind", help="Only this kind; may be repeated.")]
Sensors = Annotated[list[int] | None, typer.Option("--sensor", metavar="SENSOR", help="Only of this sensor; may be repeated.")]
Severity = Annotated[int, typer.Option("--min-severity", min=0, max=5, help="Only this severe (1 to 5) or more.")]
Limit = Annotated[int, typer.Option(min=1, help="At most this many alerts.")]
Watch = Annotated[
    bool, typer.Option("--watch", help="Go on with every change until Ctrl-C; with --json an object on a line each.")
]


@alerts.callback()
@says_errors
def before_any_alert_command(context: typer.Context, watch: Watch = False) -> None:
    """Alerts: conditions that need a person, and what people do with them. Without a command: ls."""
    context.obj = watch
    if context.invoked_subcommand is None:
        list_alerts(context)


@alerts.command("ls")
@says_errors
def list_alerts(
    context: typer.Context,
    everything: Everything = False,
    state: States = None,
    kind: Kinds = None,
    region: Regions = None,
    site: Sites = None,
    sensor: Sensors = None,
    min_severity: Severity = 0,
    limit: Limit = _PAGE,
    watch: Watch = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Open alerts, the newest first.

    Examples:

      wq alerts ls --region utah --min-severity 4

      wq alerts ls --all --sensor 7 --json

      wq alerts --watch ls
    """
    states = [pb.AlertState.Value(f"ALERT_STATE_{each.name}") for each in (State if everything else state or [])]
    asked = pb.AlertFilter(
        sensor_ids=sensor or (),
        site_ids=site or (),
        regions=region or (),
        kinds=[pb.ConditionKind.Value(f"CONDITION_KIND_{each.name}") for each in kind or ()],
        states=states,
        min_severity_level=min_severity,
    )
    with open_channel(find_target(target)) as channel:
        stub = AlertServiceStub(channel)
        if watch or context.obj:
            watch_alerts(stub, asked, as_json)
            return
        found, token = _list(stub, asked, limit)
    if as_json:
        print_json({"alerts": [plain(alert) for alert in found], "next_page_token": token})
    else:
        show(alerts_table(found, SystemClock().now_us()) if found else "no alerts" if states else "no open alerts")
        if token:
            show(f"[dim]the newest {limit}; --limit shows more[/]")


@alerts.command("show")
@says_errors
def show_alert(alert_id: AlertId, target: Target = None, as_json: AsJson = False) -> None:
    """One alert, with its evidence and history. Example: wq alerts show 12"""
    with open_channel(find_target(target)) as channel:
        answer = AlertServiceStub(channel).GetAlert(pb.GetAlertRequest(alert_id=alert_id), timeout=CALL_S)
    _show(answer.alert, as_json)


@alerts.command("ack")
@says_errors
def acknowledge_alert(
    alert_id: AlertId,
    comment: Annotated[str, typer.Option(help="A remark.")] = "",
    actor: Actor = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Says that somebody has seen it; one whose condition is over is resolved by it. Example: wq alerts ack 12"""
    request = pb.AcknowledgeAlertRequest(alert_id=alert_id, comment=comment)
    with open_channel(find_target(target)) as channel:
        answer = AlertServiceStub(channel).AcknowledgeAlert(request, timeout=CALL_S, metadata=_by(actor))
    _show(answer.alert, as_json)


@alerts.command("resolve")
@says_errors
def resolve_alert(
    alert_id: AlertId,
    comment: Annotated[str, typer.Option(help="Why; required.")],
    actor: Actor = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Closes it by hand; its condition, when it comes again, is a new alert. Example: wq alerts resolve 12 --comment flushed"""
    request = pb.ResolveAlertRequest(alert_id=alert_id, comment=comment)
    with open_channel(find_target(target)) as channel:
        answer = AlertServiceStub(channel).ResolveAlert(request, timeout=CALL_S, metadata=_by(actor))
    _show(answer.alert, as_json)


@alerts.command("comment")
@says_errors
def comment_alert(
    alert_id: AlertId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The remark, 1 to 2,000 characters.")],
    actor: Actor = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Adds a remark to its history. Example: wq alerts comment 12 "smells of chlorine" """
    request = pb.CommentAlertRequest(alert_id=alert_id, comment=text)
    with open_channel(find_target(target)) as channel:
        answer = AlertServiceStub(channel).CommentAlert(request, timeout=CALL_S, metadata=_by(actor))
    _show(answer.alert, as_json)


def _list(stub: AlertServiceStub, asked: pb.AlertFilter, limit: int) -> tuple[list[pb.Alert], str]:
    found: list[pb.Alert] = []
    token = ""
    while True:
        request = pb.ListAlertsRequest(filter=asked, page_size=min(_PAGE, limit - len(found)), page_token=token)
        page = stub.ListAlerts(request, timeout=CALL_S)
        found, token = found + list(page.alerts), page.next_page_token
        if not token or len(found) >= limit:
            return found, token


def _by(actor: str | None) -> tuple[tuple[str, str], ...]:
    """Who acts, as the server wants to be told; nothing where nobody knows."""
    name = os.environ.get("USER", "") if actor is None else actor
    if actor is None and not name:
        return ()
    if not (name.isascii() and name.isprintable() and 1 <= len(name.strip()) <= LONGEST_ACTOR):
        raise typer.BadParameter(f"{name!r}: write 1 to {LONGEST_ACTOR} printable ASCII characters", param_hint="--actor")
    return (("wq-actor", name.strip()),)


def _show(alert: pb.Alert, as_json: bool) -> None:
    if as_json:
        print_json({"alert": plain(alert)})
        return
    show(alert_table(alert, SystemClock().now_us()))
    if alert.evidence:
        show(evidence_table(alert.evidence))
    show(history_table(alert.history))
