"""Feeds the metrics page of a running system: lag and backlog of each stage, and the totals of the ledger."""

from mesh.errors import Unavailable
from mesh.ports import Clock
from mesh.stages import Progress
from mesh.telemetry import BACKLOG, LAG, LEDGER, Metrics
from query_svc.ledger_answer import LedgerAnswer
from query_svc.status import PipelineStatus

EVERY_S = 5.0


class Metering:
    """Looks every 5 s, which costs a few small queries whatever has been stored."""

    def __init__(self, metrics: Metrics, status: PipelineStatus, ledger: LedgerAnswer, clock: Clock, progress: Progress) -> None:
        self._metrics = metrics
        self._status = status
        self._ledger = ledger
        self._clock = clock
        self._progress = progress

    async def run(self) -> None:
        """Runs until cancelled. While a database is away the last figures stand."""
        while True:
            try:
                await self.look()
                self._progress.problem = ""
            except Unavailable as error:
                self._progress.problem = error.message
            await self._clock.sleep(EVERY_S)

    async def look(self) -> None:
        """Sets all gauges as of now."""
        for stage in (await self._status.status()).stages:
            self._metrics.set(BACKLOG, stage.backlog_count, stage=stage.stage)
            self._metrics.set(LAG, stage.lag_us / 1e6, stage=stage.stage)
        for measure, count in (await self._ledger.totals()).items():
            self._metrics.set(LEDGER, count, measure=measure)
        self._progress.handled_count += 1
