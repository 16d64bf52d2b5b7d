"""How the alert service is put together from its ports: rules, raise_alert, notify, and what answers and shows."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from sqlalchemy.ext.asyncio import AsyncEngine
from waterquality.v1 import alert_pb2_grpc, rule_pb2_grpc

from alert_svc import outbox, tables
from alert_svc.alert_service import AlertService
from alert_svc.alerts import Alerts
from alert_svc.channel import Channel
from alert_svc.known_sites import KnownSites
from alert_svc.notify import Notify
from alert_svc.notify_log import LogLine
from alert_svc.raise_alert import RaiseAlert
from alert_svc.rule_service import RuleService
from alert_svc.rule_tables import create_rule_tables
from alert_svc.rules import Rules
from alert_svc.rules_owner import RulesOwner
from alert_svc.watch import AlertWatch
from alert_svc.webhook import webhooks
from mesh.context import Publisher
from mesh.ports import Clock, Exchange, Log, Objects
from mesh.run import Worker
from mesh.settings import Settings
from mesh.stages import Progress

SERVICES = ("waterquality.v1.AlertService", "waterquality.v1.RuleService")


@dataclass(frozen=True, slots=True)
class Alerting:
    """All roles of the alert service in one process."""

    alerts: AlertService
    rules: RuleService
    workers: Sequence[Worker]
    watch: AlertWatch
    publisher: Publisher

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes the server answer for the two services."""
        alert_pb2_grpc.add_AlertServiceServicer_to_server(self.alerts, server)
        rule_pb2_grpc.add_RuleServiceServicer_to_server(self.rules, server)


async def create_alert_tables(catalog: AsyncEngine, clock: Clock) -> None:
    """Makes what is missing, and the default rules once. Safe to repeat and to run from several processes."""
    await create_rule_tables(catalog, clock.now_us())
    await tables.create_tables(catalog)
    await outbox.create_outbox(catalog)


def wire_alert(
    settings: Settings,
    log: Log,
    exchange: Exchange,
    objects: Objects,
    catalog: AsyncEngine,
    urgent: AsyncEngine,
    clock: Clock,
    worker: str,
) -> Alerting:
    """All roles of the service; `worker` names the process. `urgent` is the catalog by connections that alarms share with
    nobody. Raises SetupError for a webhook that cannot be as configured."""
    raising, notifying, showing, sites, ruling = (
        Progress(name) for name in ("raise_alert", "notify", "alert_watch", "rule_sites", "rules")
    )
    channels: list[Channel] = [LogLine(), *webhooks(settings, clock)]
    watch = AlertWatch(catalog)
    known = KnownSites(log, objects, sites, clock)
    publisher = Publisher(RulesOwner(catalog), log, objects, ruling, clock)
    notify = Notify(catalog, channels, notifying, clock, random.Random(), worker)
    return Alerting(
        alerts=AlertService(Alerts(catalog, clock, watch.wake), watch, settings.unread_s),
        rules=RuleService(Rules(catalog, known, clock)),
        workers=(
            Worker(raising, RaiseAlert(exchange, urgent, raising, clock, watch.wake).run),
            Worker(notifying, notify.run),
            Worker(showing, watch.run),
            Worker(sites, known.run),
            Worker(ruling, publisher.run),
        ),
        watch=watch,
        publisher=publisher,
    )
