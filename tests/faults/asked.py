"""What a running mesh says of itself over gRPC: its ledger, its alerts, its health; and the rule of a run, put in force."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

import grpc
import psycopg
from google.protobuf.duration_pb2 import Duration
from waterquality.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
    rule_pb2,
    rule_pb2_grpc,
)

from mesh.codec.rules import write_rule
from mesh.errors import from_rpc
from tests.faults.course import Course
from tests.faults.deployment import Deployment
from tests.faults.load import either_of
from tests.faults.truth import the_rule

CALL_S = 10.0
ONE_WAIT_S = 20


@dataclass(frozen=True, slots=True)
class Account:
    """The ledger of a run's gateways over all hours."""

    sent: int = 0
    accepted: int = 0
    refused: int = 0
    stored: int = 0
    duplicate: int = 0
    conflicting: int = 0
    archived: int = 0
    dead: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Raised:
    """An alert: of which condition, since when, and whether it is history."""

    condition_id: str
    began_us: int
    historical: bool


async def account_of(deployment: Deployment, gateway_ids: Sequence[str], within_s: float) -> Account:
    """Once every stage has passed everything; else what is there then, with what is wrong with it."""
    deadline_s = monotonic() + within_s
    request = ledger_pb2.GetLedgerRequest(page_size=10_000, wait_duration=Duration(seconds=ONE_WAIT_S))
    why = "no answer"
    while True:
        try:
            async with grpc.aio.insecure_channel(either_of(deployment.query, 0)) as channel:
                answer = await ledger_pb2_grpc.LedgerServiceStub(channel).GetLedger(request, timeout=ONE_WAIT_S + CALL_S)
            if answer.caught_up:
                return _summed(answer, gateway_ids, [] if answer.balanced else ["the ledger does not balance"])
            why = f"not caught up within {within_s:g} s"
        except grpc.aio.AioRpcError as error:
            answer, why = ledger_pb2.GetLedgerResponse(), from_rpc(error).message
        if monotonic() > deadline_s:
            return _summed(answer, gateway_ids, [f"ledger: {why}; {'; '.join((await status_of(deployment))[1])}"])


def _summed(answer: ledger_pb2.GetLedgerResponse, gateway_ids: Sequence[str], problems: list[str]) -> Account:
    sums: Counter[str] = Counter()
    for entry in answer.entries:
        if entry.gateway_id not in gateway_ids:
            continue
        for name in ("sent", "accepted", "stored", "duplicate", "conflicting", "archived"):
            sums[name] += getattr(entry, f"{name}_count")
        sums["refused"] += sum(refused.count for refused in entry.refused)
        sums["dead"] += entry.dead_at_screen_count + entry.dead_at_record_count + entry.dead_at_archive_count
    return Account(**sums, problems=problems)


async def alerts_of(deployment: Deployment, course: Course) -> list[Raised]:
    """All alerts of the run's region, in any state. Raises AioRpcError."""
    found: list[Raised] = []
    request = alert_pb2.ListAlertsRequest(page_size=1_000)
    request.filter.regions.append(course.region)
    request.filter.states.extend(alert_pb2.AlertState.values()[1:])
    async with grpc.aio.insecure_channel(either_of(deployment.alert, 0)) as channel:
        stub = alert_pb2_grpc.AlertServiceStub(channel)
        while True:
            answer = await stub.ListAlerts(request, timeout=CALL_S)
            found += [Raised(alert.condition_id, alert.raised_time.ToMicroseconds(), alert.historical) for alert in answer.alerts]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token


async def status_of(deployment: Deployment) -> tuple[bool, list[str]]:
    """Whether the pipeline is well and readable, and what it says is wrong; who does not answer is not well."""
    try:
        async with grpc.aio.insecure_channel(either_of(deployment.query, 0)) as channel:
            stub = query_pb2_grpc.QueryServiceStub(channel)
            answer = await stub.GetPipelineStatus(query_pb2.GetPipelineStatusRequest(), timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        return False, [f"GetPipelineStatus: {from_rpc(error).message}"]
    problems = [f"{stage.stage}: {stage.problem}" for stage in answer.stages if stage.problem]
    return not problems and answer.HasField("readable_time"), problems


async def is_readable(deployment: Deployment, positions: Sequence[str], sensor_ids: Sequence[int]) -> bool:
    """Whether what these tokens cover can be read now."""
    request = query_pb2.GetLatestRequest()
    request.filter.sensor_ids.extend(sensor_ids)
    request.freshness.at_least.extend(positions)
    request.freshness.wait_duration.FromMilliseconds(1_000)
    try:
        async with grpc.aio.insecure_channel(either_of(deployment.query, 0)) as channel:
            await query_pb2_grpc.QueryServiceStub(channel).GetLatest(request, timeout=CALL_S)
    except grpc.aio.AioRpcError:
        return False
    return True


async def put_rule_in_force(deployment: Deployment, course: Course) -> None:
    """Sets the rule of the run, and waits until it stands in the Log, before which nothing may be sent."""
    async with grpc.aio.insecure_channel(either_of(deployment.alert, 0)) as channel:
        request = rule_pb2.SetRuleRequest(rule=write_rule(the_rule(course)))
        await rule_pb2_grpc.RuleServiceStub(channel).SetRule(request, timeout=CALL_S)
    deadline_s = monotonic() + 60
    while await _waits_to_be_published(deployment):
        assert monotonic() < deadline_s, "the rule was not published within 60 s"
        await asyncio.sleep(0.1)


async def _waits_to_be_published(deployment: Deployment) -> bool:
    """Whether a version of the rules waits to be published."""
    async with await psycopg.AsyncConnection.connect(deployment.catalog_dsn) as connection:
        return bool(await (await connection.execute("SELECT 1 FROM alert.rules_version WHERE published < newest")).fetchall())
