"""Does a broken limit become an alert, and its end the end of it? By a rule and a sensor of the probe's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic

import grpc
import numpy as np
from waterquality.v1 import alert_pb2, alert_pb2_grpc, ingest_pb2, ingest_pb2_grpc, rule_pb2, rule_pb2_grpc

from mesh.codec.columns import write_columns
from mesh.errors import Fault
from mesh.ports import Clock
from water.parameter import BY_COLUMN, PARAMETERS
from water.readings import Readings

_CALL_S = 10.0
_LOOK_S = 0.05
_WRITE_AGAIN_S = 1.0  # until the new rule is in force
_LIMIT_NTU, _WITHIN_NTU, _BEYOND_NTU = 100.0, 3.0, 200.0
_ACTOR = (("wq-actor", "wq-probe"),)
_OPEN_ENDED = (alert_pb2.ALERT_STATE_UNACKNOWLEDGED, alert_pb2.ALERT_STATE_ACKNOWLEDGED)


@dataclass(slots=True)
class AlarmPath:
    """Each round raises an alert of the lowest severity, sees it return, and resolves it. The ledger counts its readings under
    a gateway of its own."""

    channel: grpc.aio.Channel
    clock: Clock
    gateway_id: str
    region: str
    sensor_id: int

    @property
    def rule_id(self) -> str:
        """Of the rule that is for the probe's sensor alone."""
        return f"probe-{self.sensor_id}"

    async def tells(self, within_s: float) -> None:
        """Raises Fault when the alert does not come, or does not return, in time."""
        began_us = self.clock.now_us()
        alert = await self._until(
            _BEYOND_NTU,
            lambda found: found.state in _OPEN_ENDED and found.last_seen_time.ToMicroseconds() >= began_us,
            within_s,
            "no alert was raised",
        )
        await self._until(
            _WITHIN_NTU, lambda found: found.state == alert_pb2.ALERT_STATE_RETURNED_UNACKNOWLEDGED, within_s, "the alert stayed"
        )
        request = alert_pb2.ResolveAlertRequest(alert_id=alert.alert_id, comment="self-test")
        await alert_pb2_grpc.AlertServiceStub(self.channel).ResolveAlert(request, metadata=_ACTOR, timeout=_CALL_S)

    async def set_rule(self) -> None:
        rule = rule_pb2.Rule(
            rule_id=self.rule_id,
            parameter=BY_COLUMN["turbidity_ntu"].number,  # type: ignore[arg-type]
            statistic=rule_pb2.STATISTIC_VALUE,
            upper_limit=_LIMIT_NTU,
            severity_level=1,
            sensor_ids=[self.sensor_id],
            citation="wq probe",
        )
        await rule_pb2_grpc.RuleServiceStub(self.channel).SetRule(rule_pb2.SetRuleRequest(rule=rule), timeout=_CALL_S)

    async def delete_rule(self) -> None:
        request = rule_pb2.DeleteRuleRequest(rule_id=self.rule_id)
        await rule_pb2_grpc.RuleServiceStub(self.channel).DeleteRule(request, timeout=_CALL_S)

    async def _until(
        self, ntu: float, holds: Callable[[alert_pb2.Alert], bool], within_s: float, otherwise: str
    ) -> alert_pb2.Alert:
        """Writes this value, once a second, until the alert is so."""
        deadline_s, written_s = monotonic() + within_s, 0.0
        while monotonic() < deadline_s:
            if monotonic() - written_s > _WRITE_AGAIN_S:
                written_s = monotonic()
                await self._write(ntu)
            for alert in await self._alerts():
                if holds(alert):
                    return alert
            await asyncio.sleep(_LOOK_S)
        raise Fault(f"alarm path: {otherwise} within {within_s:g} s")

    async def _write(self, ntu: float) -> None:
        values = np.full((len(PARAMETERS), 1), np.nan, np.float32)
        values[BY_COLUMN["turbidity_ntu"].number - 1] = ntu
        readings = Readings(np.array([self.sensor_id]), np.array([self.clock.now_us()]), values)
        request = ingest_pb2.SubmitBatchRequest(readings=write_columns(readings))
        request.open.gateway_id, request.open.region = f"{self.gateway_id}-alarm", self.region
        await ingest_pb2_grpc.IngestServiceStub(self.channel).SubmitBatch(request, timeout=_CALL_S)

    async def _alerts(self) -> list[alert_pb2.Alert]:
        """The open ones of the probe's sensor."""
        request = alert_pb2.ListAlertsRequest(filter=alert_pb2.AlertFilter(sensor_ids=[self.sensor_id]))
        answer = await alert_pb2_grpc.AlertServiceStub(self.channel).ListAlerts(request, timeout=_CALL_S)
        return list(answer.alerts)


@asynccontextmanager
async def alarm_rule(path: AlarmPath) -> AsyncIterator[AlarmPath]:
    """The rule is there inside the block, and deleted with it where the mesh can still be asked. Raises AioRpcError."""
    await path.set_rule()
    try:
        yield path
    finally:
        with suppress(grpc.aio.AioRpcError):
            await path.delete_rule()
