"""How do open alerts come to the page, and what a person does there to the service?"""

from itertools import count
from typing import Any

from waterquality.v1 import alert_pb2, alert_pb2_grpc

from mesh.errors import InvalidArgument
from web_svc.board import Board, Part
from web_svc.source import CALL_S, Say
from web_svc.words import kind_of, rounded, state_of, time_us, write

MOST_ALERTS = 1_000
PAGE = 500
ACTOR = (("wq-actor", "dashboard"),)
_SHOWN_EVIDENCE = 8
_SHOWN_HISTORY = 50


class OpenAlerts:
    """At most 1,000 of them, the newest."""

    def __init__(self, service: "alert_pb2_grpc.AlertServiceAsyncStub", board: Board) -> None:
        self._service = service
        self._board = board
        self._told = count(1)

    async def follow(self, say: Say) -> None:
        """Until the stream ends. Raises RpcError."""
        watching: Any = self._service.WatchAlerts(alert_pb2.WatchAlertsRequest())  # open ones, and each once more when it ends
        try:
            await watching.initial_metadata()  # from here on no change is missed
            await self._read_open()
            say("")
            async for answer in watching:
                self._show(answer.alert)
        finally:
            watching.cancel()

    async def history(self, alert_id: int) -> str:
        """What happened to an alert, oldest first, as JSON: the newest 50 steps. Raises RpcError."""
        answer = await self._service.GetAlert(alert_pb2.GetAlertRequest(alert_id=alert_id), timeout=CALL_S)
        return write({"history": [_event(one) for one in answer.alert.history[-_SHOWN_HISTORY:]]})

    async def act(self, alert_id: int, action: str, comment: str) -> str:
        """Acknowledges, resolves or comments as `dashboard`; the alert as it is then, as JSON. Raises RpcError."""
        match action:
            case "acknowledge":
                acknowledge = alert_pb2.AcknowledgeAlertRequest(alert_id=alert_id, comment=comment)
                alert = (await self._service.AcknowledgeAlert(acknowledge, timeout=CALL_S, metadata=ACTOR)).alert
            case "resolve":
                resolve = alert_pb2.ResolveAlertRequest(alert_id=alert_id, comment=comment)
                alert = (await self._service.ResolveAlert(resolve, timeout=CALL_S, metadata=ACTOR)).alert
            case "comment":
                remark = alert_pb2.CommentAlertRequest(alert_id=alert_id, comment=comment)
                alert = (await self._service.CommentAlert(remark, timeout=CALL_S, metadata=ACTOR)).alert
            case _:
                raise InvalidArgument(f"{action!r} cannot be done to an alert: acknowledge, resolve or comment")
        self._show(alert)
        return _write(alert)

    async def _read_open(self) -> None:
        """What is open now; what the page still has and is not among it, is over."""
        token, found = "", list[alert_pb2.Alert]()
        while len(found) < MOST_ALERTS:
            request = alert_pb2.ListAlertsRequest(page_size=PAGE, page_token=token)
            answer = await self._service.ListAlerts(request, timeout=CALL_S)
            found += answer.alerts
            token = answer.next_page_token
            if not token:
                break
        self._board.remove(Part.ALERTS, set(self._board.keys(Part.ALERTS)) - {str(alert.alert_id) for alert in found})
        self._board.put(Part.ALERTS, {str(alert.alert_id): _write(alert) for alert in found})
        self._board.put(Part.ABOUT, {"alerts": write({"more_alerts": bool(token)})})

    def _show(self, alert: alert_pb2.Alert) -> None:
        key = str(alert.alert_id)
        if alert.state == alert_pb2.ALERT_STATE_RESOLVED:
            self._board.remove(Part.ALERTS, [key])
            return
        self._board.put(Part.ALERTS, {key: _write(alert, next(self._told))})
        shown = self._board.keys(Part.ALERTS)
        if len(shown) > MOST_ALERTS:
            self._board.remove(Part.ALERTS, [min(shown, key=int)])
            self._board.put(Part.ABOUT, {"alerts": write({"more_alerts": True})})


def _write(alert: alert_pb2.Alert, told: int = 0) -> str:
    """`told` differs whenever something happened to it, a comment too: the page then reads its history again."""
    return write(
        {
            "alert_id": str(alert.alert_id),
            "told": told,
            "sensor_id": str(alert.sensor_id) if alert.sensor_id else "",
            "site_id": alert.site_id,
            "region": alert.region,
            "gateway_id": alert.gateway_id,
            "kind": kind_of(alert.kind),
            "rule_id": alert.rule_id,
            "severity": alert.severity_level,
            "state": state_of(alert.state),
            "summary": alert.summary,
            "contaminant": alert.contaminant_type,
            "raised_us": time_us(alert.raised_time),
            "cleared_us": time_us(alert.cleared_time) if alert.HasField("cleared_time") else None,
            "seen_us": time_us(alert.last_seen_time),
            "evidence": [_evidence(one) for one in alert.evidence[:_SHOWN_EVIDENCE]],
        }
    )


def _evidence(evidence: alert_pb2.Evidence) -> dict[str, object]:
    return {
        "parameter": evidence.parameter,
        "value": rounded(evidence.value, evidence.parameter),
        "expected": rounded(evidence.expected, evidence.parameter),
        "score": rounded(evidence.score, 0),
        "test": evidence.test,
    }


def _event(event: alert_pb2.AlertEvent) -> dict[str, object]:
    return {
        "at_us": time_us(event.time),
        "actor": event.actor,
        "from": state_of(event.from_state),
        "to": state_of(event.to_state),
        "comment": event.comment,
    }
