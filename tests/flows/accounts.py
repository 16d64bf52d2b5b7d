"""What the ledger of a running system says of some gateways, once every stage has passed everything."""

from dataclasses import dataclass, field

import grpc
from google.protobuf.duration_pb2 import Duration
from waterquality.v1 import ingest_pb2, ledger_pb2, ledger_pb2_grpc

WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Account:
    """Readings over all hours; `refused` by the reason's name without its prefix."""

    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    stored: int = 0
    duplicate: int = 0
    conflicting: int = 0


async def account_of(target: str, *gateway_ids: str) -> Account:
    """The sum of these gateways. Waits until the system has caught up; the laws must hold then, and nothing may be dead."""
    request = ledger_pb2.GetLedgerRequest(gateway_ids=gateway_ids, wait_duration=Duration(seconds=WITHIN_S))
    async with grpc.aio.insecure_channel(target) as channel:
        answer = await ledger_pb2_grpc.LedgerServiceStub(channel).GetLedger(request, timeout=WITHIN_S + 10)
    assert answer.caught_up, "the stages did not catch up"
    assert answer.balanced, f"the ledger does not balance: {answer.entries}"
    refused: dict[str, int] = {}
    for entry in answer.entries:
        assert (entry.dead_at_screen_count, entry.dead_at_record_count) == (0, 0)
        assert entry.sent_count == entry.accepted_count + sum(one.count for one in entry.refused)
        for one in entry.refused:
            name = ingest_pb2.RejectionReason.Name(one.reason).removeprefix("REJECTION_REASON_")
            refused[name] = refused.get(name, 0) + one.count
    return Account(
        sum(entry.accepted_count for entry in answer.entries),
        refused,
        sum(entry.stored_count for entry in answer.entries),
        sum(entry.duplicate_count for entry in answer.entries),
        sum(entry.conflicting_count for entry in answer.entries),
    )
