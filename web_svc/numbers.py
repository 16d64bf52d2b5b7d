"""How far behind is the pipeline, and does the ledger balance: once a second, for the page."""

from collections.abc import Callable

from waterquality.v1 import ledger_pb2, ledger_pb2_grpc, query_pb2, query_pb2_grpc

from mesh.ports import Clock
from web_svc.board import Board, Part
from web_svc.source import CALL_S, Say
from web_svc.words import time_us, write

EVERY_S = 1.0
COST_SHARE = 20
"""Asking takes at most one part in so many of the time, however much there is to sum."""
PAGE = 10_000
MOST_PAGES = 100
_COUNTS = (
    "sent_count", "accepted_count", "stored_count", "duplicate_count", "conflicting_count", "archived_count",
    "dead_at_screen_count", "dead_at_record_count", "dead_at_archive_count",
)  # fmt: skip


class Pipeline:
    """The stages, in their order."""

    def __init__(self, query: "query_pb2_grpc.QueryServiceAsyncStub", board: Board, clock: Clock) -> None:
        self._query = query
        self._board = board
        self._clock = clock

    async def follow(self, say: Say) -> None:
        """For ever. Raises RpcError."""
        while True:
            pause_s = pacing(self._clock)
            status = await self._query.GetPipelineStatus(query_pb2.GetPipelineStatusRequest(), timeout=CALL_S)
            stages = [
                {
                    "stage": one.stage,
                    "backlog_count": one.backlog_count,
                    "lag_s": round(one.lag_duration.ToMicroseconds() / 1e6, 3),
                    "rate_per_s": round(one.rate_per_s, 1),
                    "problem": one.problem,
                }
                for one in status.stages
            ]
            readable_us = time_us(status.readable_time) if status.HasField("readable_time") else None
            self._board.put(Part.PIPELINE, {"": write({"stages": stages, "readable_us": readable_us})})
            say("")
            await self._clock.sleep(pause_s())


class LedgerTotals:
    """Sums over all gateways and hours."""

    def __init__(self, ledger: "ledger_pb2_grpc.LedgerServiceAsyncStub", board: Board, clock: Clock) -> None:
        self._ledger = ledger
        self._board = board
        self._clock = clock
        self._proven_us: int | None = None

    async def follow(self, say: Say) -> None:
        """For ever; more rarely the longer it takes. Raises RpcError."""
        while True:
            pause_s = pacing(self._clock)
            await self._sum()
            say("")
            await self._clock.sleep(pause_s())

    async def _sum(self) -> None:
        sums = dict.fromkeys((*_COUNTS, "refused_count"), 0)
        token, caught_up, balanced = "", True, True
        for _ in range(MOST_PAGES):
            request = ledger_pb2.GetLedgerRequest(page_size=PAGE, page_token=token)
            page = await self._ledger.GetLedger(request, timeout=CALL_S)
            for entry in page.entries:
                for name in _COUNTS:
                    sums[name] += getattr(entry, name)
                sums["refused_count"] += sum(each.count for each in entry.refused)
            caught_up, balanced = caught_up and page.caught_up, balanced and page.balanced
            token = page.next_page_token
            if not token:
                break
        if caught_up and balanced and not token:
            self._proven_us = self._clock.now_us()
        said = {"caught_up": caught_up, "balanced": balanced, "proven_us": self._proven_us, "complete": not token}
        self._board.put(Part.LEDGER, {"": write(sums | said)})


def pacing(clock: Clock, every_s: float = EVERY_S) -> Callable[[], float]:
    """Begins to measure; what is given says how long to pause then."""
    began_us = clock.now_us()
    return lambda: max(every_s, (clock.now_us() - began_us) / 1e6 * COST_SHARE)
