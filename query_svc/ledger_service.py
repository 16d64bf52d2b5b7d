"""LedgerService: reads the question, waits as asked, and writes the answer. The sums are ledger_answer's."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from waterquality.v1 import ingest_pb2, ledger_pb2, ledger_pb2_grpc

from mesh import ledger
from mesh.errors import InvalidArgument
from mesh.pages import page_size, read_cursor, write_cursor
from mesh.ports import Partition
from mesh.server import answers
from mesh.tokens import fingerprint, read_position
from mesh.topics import ACCEPTED, BACKFILL, REFUSED
from query_svc.ledger_answer import Entry, LedgerAnswer, Question

USUAL_PAGE, LARGEST_PAGE = 1_000, 10_000
MOST_POSITIONS = 100
MOST_GATEWAYS = 1_000
USUAL_WAIT_S, LONGEST_WAIT_S = 30.0, 300.0
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # years 1 to 9999, as Timestamp has them


class LedgerService(ledger_pb2_grpc.LedgerServiceServicer):
    """Serves the ledger of one deployment."""

    def __init__(self, answer: LedgerAnswer, log_id: str, partition_count: int) -> None:
        self._answer = answer
        self._log_id = log_id
        self._partition_count = partition_count

    @answers
    async def GetLedger(self, request: ledger_pb2.GetLedgerRequest, context: Any) -> ledger_pb2.GetLedgerResponse:
        """Waits only when asked to: `at_least` or `wait_duration` is set. Then at most 300 s."""
        question = _question(request)
        page, caught_up = await self._answer.answer(question, self._positions(request), _wait_s(request))
        token = ""
        if page.more:
            last = page.entries[-1]
            token = write_cursor("ledger", _filter(request), [last.gateway_id, last.hour_us])
        entries = [_entry(entry) for entry in page.entries]
        return ledger_pb2.GetLedgerResponse(entries=entries, next_page_token=token, caught_up=caught_up, balanced=page.balanced)

    def _positions(self, request: ledger_pb2.GetLedgerRequest) -> dict[Partition, int]:
        if len(request.at_least) > MOST_POSITIONS:
            raise _wrong("at_least", f"{len(request.at_least)} positions; at most {MOST_POSITIONS}")
        wanted: dict[Partition, int] = {}
        for number, token in enumerate(request.at_least):
            place = f"at_least[{number}]"
            for (topic, partition), offset in read_position(token, self._log_id, place).items():
                if topic not in (ACCEPTED, BACKFILL, REFUSED) or not 0 <= partition < self._partition_count:
                    raise _wrong(place, f"{topic}/{partition} is no place where readings arrive")
                wanted[Partition(topic, partition)] = max(offset, wanted.get(Partition(topic, partition), -1))
        return wanted


def _question(request: ledger_pb2.GetLedgerRequest) -> Question:
    size = page_size(request.page_size, USUAL_PAGE, LARGEST_PAGE)
    if len(request.gateway_ids) > MOST_GATEWAYS:
        raise _wrong("gateway_ids", f"{len(request.gateway_ids)} gateways; at most {MOST_GATEWAYS}, or none for all")
    if any("\0" in gateway_id for gateway_id in request.gateway_ids):
        raise _wrong("gateway_ids", "a NUL character; no gateway has one")
    start_us = _time(request.start_time, "start_time") if request.HasField("start_time") else None
    end_us = _time(request.end_time, "end_time") if request.HasField("end_time") else None
    return Question(
        gateway_ids=tuple(request.gateway_ids),
        start_us=start_us,
        end_us=end_us,
        page_size=size,
        after=read_cursor("ledger", _filter(request), request.page_token, [str, int]),
    )


def _filter(request: ledger_pb2.GetLedgerRequest) -> str:
    """The part of a question that a page token belongs to."""
    asked = ledger_pb2.GetLedgerRequest(gateway_ids=sorted(set(request.gateway_ids)))
    for name in ("start_time", "end_time"):
        if request.HasField(name):
            getattr(asked, name).CopyFrom(getattr(request, name))
    return fingerprint(b"ledger", asked.SerializeToString(deterministic=True))


def _wait_s(request: ledger_pb2.GetLedgerRequest) -> float:
    if not request.HasField("wait_duration"):
        return USUAL_WAIT_S if request.at_least else 0.0
    seconds = request.wait_duration.seconds + request.wait_duration.nanos / 1e9
    if seconds < 0:
        raise _wrong("wait_duration", f"{seconds} s; from 0 (the usual {USUAL_WAIT_S:.0f} s) to {LONGEST_WAIT_S:.0f} s")
    return min(seconds or USUAL_WAIT_S, LONGEST_WAIT_S)


def _time(moment: Timestamp, field: str) -> int:
    at_us = moment.seconds * 1_000_000 + moment.nanos // 1000
    if not _FIRST_US <= at_us <= _LAST_US:
        raise _wrong(field, f"{moment.seconds} s since 1970; years 1 to 9999")
    return at_us


def _entry(entry: Entry) -> ledger_pb2.LedgerEntry:
    reasons = _refused(entry.counts)
    accepted = entry.counts.get(ledger.ACCEPTED, 0)
    message = ledger_pb2.LedgerEntry(
        gateway_id=entry.gateway_id,
        sent_count=accepted + sum(reasons.values()),
        accepted_count=accepted,
        refused=[
            ledger_pb2.RefusedCount(reason=ingest_pb2.RejectionReason.ValueType(reason), count=count)
            for reason, count in sorted(reasons.items())
        ],
        stored_count=entry.counts.get(ledger.STORED, 0),
        duplicate_count=entry.counts.get(ledger.DUPLICATE, 0),
        conflicting_count=entry.counts.get(ledger.CONFLICTING, 0),
        dead_at_screen_count=entry.counts.get(ledger.dead("screen"), 0),
        dead_at_record_count=entry.counts.get(ledger.dead("record"), 0),
        dead_at_archive_count=entry.counts.get(ledger.dead("archive"), 0),
        archived_count=entry.counts.get(ledger.ARCHIVED, 0),
        settled=entry.settled,
    )
    message.hour_time.FromMicroseconds(entry.hour_us)
    return message


def _refused(counts: Mapping[str, int]) -> dict[int, int]:
    prefix = ledger.refused(0)[:-1]
    return {int(measure[len(prefix) :]): count for measure, count in counts.items() if measure.startswith(prefix)}


def _wrong(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {problem}", fields={field: problem})
