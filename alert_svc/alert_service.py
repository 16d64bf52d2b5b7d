"""AlertService: requests of alert.proto -> what is done with alerts. The only place of its requests and responses."""

import asyncio
from contextlib import aclosing
from typing import Any

import grpc
from waterquality.v1 import alert_pb2, alert_pb2_grpc

from alert_svc.alert_filter import AlertFilter
from alert_svc.alerts import Alerts, Told
from alert_svc.summary import summary
from alert_svc.watch import AlertWatch
from mesh.codec.alerts import Alert, write_alert
from mesh.codec.times import read_time
from mesh.errors import InvalidArgument, Unavailable, Unsupported
from mesh.server import answers

ACTOR = "wq-actor"
NOBODY = "anonymous"
_Context = grpc.aio.ServicerContext[Any, Any]


class AlertService(alert_pb2_grpc.AlertServiceServicer):
    """Served by every process that can reach the catalog database. Lists and watches leave out histories: GetAlert and the
    answers to what people do have them."""

    def __init__(self, alerts: Alerts, watch: AlertWatch, unread_s: float = 30.0) -> None:
        self._alerts = alerts
        self._watch = watch
        self._unread_s = unread_s

    @answers
    async def GetAlert(self, request: alert_pb2.GetAlertRequest, context: _Context) -> alert_pb2.GetAlertResponse:
        return alert_pb2.GetAlertResponse(alert=_told(await self._alerts.get(request.alert_id)))

    @answers
    async def ListAlerts(self, request: alert_pb2.ListAlertsRequest, context: _Context) -> alert_pb2.ListAlertsResponse:
        alerts, token = await self._alerts.list(_filter(request.filter), request.page_size, request.page_token)
        return alert_pb2.ListAlertsResponse(alerts=map(_message, alerts), next_page_token=token)

    @answers
    async def WatchAlerts(  # type: ignore[override]  # grpc.aio also takes a coroutine that writes
        self, request: alert_pb2.WatchAlertsRequest, context: _Context
    ) -> None:
        asked = _filter(request.filter)
        async with self._watch.follow(asked) as watcher:
            await context.send_initial_metadata(())
            async with aclosing(self._watch.open_ones(asked)) as pages:
                async for page in pages:
                    for alert in watcher.fresh(page):
                        await self._write(context, alert)
            while True:
                for alert in await watcher.news():
                    await self._write(context, alert)

    @answers
    async def AcknowledgeAlert(
        self, request: alert_pb2.AcknowledgeAlertRequest, context: _Context
    ) -> alert_pb2.AcknowledgeAlertResponse:
        told = await self._alerts.acknowledge(request.alert_id, _actor(context), request.comment)
        return alert_pb2.AcknowledgeAlertResponse(alert=_told(told))

    @answers
    async def ResolveAlert(self, request: alert_pb2.ResolveAlertRequest, context: _Context) -> alert_pb2.ResolveAlertResponse:
        told = await self._alerts.resolve(request.alert_id, _actor(context), request.comment)
        return alert_pb2.ResolveAlertResponse(alert=_told(told))

    @answers
    async def CommentAlert(self, request: alert_pb2.CommentAlertRequest, context: _Context) -> alert_pb2.CommentAlertResponse:
        told = await self._alerts.comment(request.alert_id, _actor(context), request.comment)
        return alert_pb2.CommentAlertResponse(alert=_told(told))

    @answers
    async def ShelveAlert(self, request: alert_pb2.ShelveAlertRequest, context: _Context) -> alert_pb2.ShelveAlertResponse:
        raise _unserved("ShelveAlert")

    @answers
    async def UnshelveAlert(self, request: alert_pb2.UnshelveAlertRequest, context: _Context) -> alert_pb2.UnshelveAlertResponse:
        raise _unserved("UnshelveAlert")

    @answers
    async def GetAlarmPerformance(
        self, request: alert_pb2.GetAlarmPerformanceRequest, context: _Context
    ) -> alert_pb2.GetAlarmPerformanceResponse:
        raise _unserved("GetAlarmPerformance")

    async def _write(self, context: _Context, alert: Alert) -> None:
        """Raises Unavailable (ANSWER_NOT_READ) for a caller that does not read: others wait for its place."""
        try:
            async with asyncio.timeout(self._unread_s):
                await context.write(alert_pb2.WatchAlertsResponse(alert=_message(alert)))
        except TimeoutError:
            problem = f"the stream was not read for {self._unread_s:g} s: watch again"
            raise Unavailable(problem, reason="ANSWER_NOT_READ") from None


def _actor(context: _Context) -> str:
    """Who acts; the one who says nothing is anonymous. Raises InvalidArgument for a name that is no text."""
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR:
            if isinstance(value, str):
                return value
            raise InvalidArgument(f"{ACTOR}: not a text", fields={ACTOR: "not a text"})
    return NOBODY


def _filter(message: alert_pb2.AlertFilter) -> AlertFilter:
    return AlertFilter(
        frozenset(message.sensor_ids),
        frozenset(message.site_ids),
        frozenset(message.regions),
        frozenset(message.kinds),
        frozenset(message.states),
        message.min_severity_level,
        read_time(message, "start_time", "filter.start_time"),
        read_time(message, "end_time", "filter.end_time"),
    )


def _told(told: Told) -> alert_pb2.Alert:
    return write_alert(told.alert, summary(told.alert), told.history)


def _message(alert: Alert) -> alert_pb2.Alert:
    return write_alert(alert, summary(alert))


def _unserved(method: str) -> Unsupported:
    name = f"waterquality.v1.AlertService/{method}"
    problem = f"{name} is part of the contract and not built yet; nothing was done"
    return Unsupported(problem, reason="NOT_SERVED_YET", metadata={"method": name})
