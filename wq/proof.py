"""Whether the ledger agrees with what a sender knows it sent: law 1, from the outside."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from waterquality.v1.ledger_pb2 import GetLedgerRequest, LedgerEntry
from waterquality.v1.ledger_pb2_grpc import LedgerServiceStub

from mesh.errors import Unavailable
from wq.totals import Totals, total

_ASK_AGAIN_S = 0.3
_WAIT_AT_ONCE_S = 5
_CALL_S = 30.0
_PATIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True, slots=True)
class Sent:
    """What the sender knows."""

    handed_over: int
    transmitted: int
    acknowledged: int
    refused: Mapping[str, int]
    reconnects: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The ledger of one gateway at a moment."""

    totals: Totals
    caught_up: bool
    balanced: bool


def disagreements(sent: Sent, change: Totals, balanced: bool) -> list[str]:
    """Why the change in the ledger, once caught up, is not what was sent; empty: it is. Without a reconnect sent is exactly
    accepted + refused; with one, a resent batch may count twice, so it lies between handed over and transmitted. A server that
    has archived nothing has no archive, or its ledger does not balance."""
    problems: list[str] = []
    if sent.acknowledged != sent.handed_over:
        problems.append(f"{sent.handed_over} readings were handed over, {sent.acknowledged} were acknowledged")
    if sent.reconnects == 0:
        if change.sent != sent.handed_over:
            problems.append(f"{sent.handed_over} readings were sent, the ledger has {change.sent} (accepted + refused)")
        if dict(change.refused) != dict(sent.refused):
            problems.append(f"refused here: {_listed(sent.refused)}; in the ledger: {_listed(change.refused)}")
    elif not sent.handed_over <= change.sent <= sent.transmitted:
        problems.append(
            f"with {sent.reconnects} reconnects {sent.handed_over} readings were handed over and {sent.transmitted} transmitted, "
            f"the ledger has {change.sent} (accepted + refused), which is not between them"
        )
    if change.accepted != change.recorded:
        problems.append(f"{change.accepted} were accepted, {change.recorded} are stored, duplicate, conflicting or dead")
    if change.archived and change.accepted != change.kept:
        problems.append(f"{change.accepted} were accepted, {change.kept} are archived or dead")
    if dead := change.dead_at_screen + change.dead_at_record + change.dead_at_archive:
        where = "screened, recorded or archived"
        problems.append(f"{dead} readings are dead: accepted, but they could not be {where} (see the server's log)")
    if not balanced:
        problems.append("the ledger of this gateway does not balance")
    return problems


async def settled(
    stub: LedgerServiceStub,
    gateway_id: str,
    positions: Sequence[str],
    wait_s: float,
    show: Callable[[Totals], None] = lambda totals: None,
) -> Snapshot:
    """The ledger of the gateway once every stage has passed the positions and everything that was in the log; not caught up when
    that takes longer than `wait_s`. A server that is away meanwhile is waited for; `show` is told how far it is."""
    deadline = time.monotonic() + wait_s
    snapshot: Snapshot | None = None
    while True:
        try:
            snapshot = await _ask(stub, gateway_id, positions)
            show(snapshot.totals)
            if snapshot.caught_up:
                return snapshot
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PATIENT or time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            if snapshot is None:
                raise Unavailable(f"the ledger did not answer within {wait_s:g} s")
            return snapshot
        await asyncio.sleep(_ASK_AGAIN_S)


async def _ask(stub: LedgerServiceStub, gateway_id: str, positions: Sequence[str]) -> Snapshot:
    """One question, all its pages."""
    request = GetLedgerRequest(
        gateway_ids=[gateway_id], page_size=10_000, at_least=positions, wait_duration=Duration(seconds=_WAIT_AT_ONCE_S)
    )
    entries: list[LedgerEntry] = []
    caught_up = balanced = True
    while True:
        page = await stub.GetLedger(request, timeout=_CALL_S)  # type: ignore[misc]
        entries.extend(page.entries)
        caught_up, balanced = caught_up and page.caught_up, balanced and page.balanced
        request.page_token = page.next_page_token
        if not request.page_token:
            return Snapshot(total(entries), caught_up, balanced)


def _listed(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items())) or "none"
