"""One round of the self-test: known readings written, then looked for by every path at once."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from time import monotonic

import grpc
import numpy as np
from waterquality.v1 import ingest_pb2, ingest_pb2_grpc

from mesh.codec.columns import write_columns
from mesh.codec.stamp import hour_of
from mesh.errors import Fault, WaterError, from_rpc
from mesh.ports import Clock
from water.parameter import PARAMETERS
from water.readings import Readings
from wq.probe_alarm import AlarmPath
from wq.probe_paths import Books, Path, Written, aggregate, in_manifest, latest, rows, status, stream
from wq.probe_watch import Watching

WRITE, WATCH, LEDGER, ARCHIVE, ALARM = "write", "watch", "ledger", "archive", "alarm"
READS: dict[str, Path] = {"latest": latest, "list": rows, "stream": stream, "aggregate": aggregate, "status": status}
SENSORS = 4
_CALL_S = 10.0
_POLL_S = 0.2
_TYPICAL = (7.4, 3.0, 14.0, 9.0, 420.0, 0.4, 650.0, 1200.0)  # in the order of PARAMETERS
_STEPS = 5  # on each parameter's grid: too little for a condition, enough not to look like a sensor that is stuck


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """`first_sensor` and the SENSORS - 1 after it are the probe's, and one more with `alarms`. A path has `within_s` to bring
    readings back, the archive `archive_within_s`."""

    gateway_id: str
    region: str
    first_sensor: int
    within_s: float
    archive_within_s: float
    backfill: bool
    alarms: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one path in one round: seconds from the acknowledgement (`write`: from sending) until the readings were back."""

    path: str
    seconds: float
    problem: str = ""


@dataclass(slots=True)
class Waiting:
    """A round that is not known to be archived; `total`: readings written up to it."""

    written: Written
    total: int
    since_s: float


@dataclass(slots=True)
class Probe:
    """Rounds follow each other, never at once; await `begin` first. A round never raises for what the mesh does."""

    settings: ProbeSettings
    channel: grpc.aio.Channel
    clock: Clock
    watching: Watching | None
    alarm: AlarmPath | None
    books: Books = field(init=False)
    _waiting: list[Waiting] = field(default_factory=list)

    async def begin(self) -> None:
        """Notes how the ledger stands. Raises AioRpcError while the mesh cannot be asked."""
        self.books = Books(self.settings.gateway_id, hour_of(self.clock.now_us()))
        await self.books.open(self.channel)

    async def round(self) -> list[Outcome]:
        """Every path's outcome, the write first; after a write that failed nothing is looked for."""
        began_s, written, problem = monotonic(), None, ""
        try:
            written = await self._write()
        except (WaterError, grpc.aio.AioRpcError) as error:
            problem = _said(error)
        outcomes = [Outcome(WRITE, monotonic() - began_s, problem)]
        if written is None:
            return outcomes
        within_s = self.settings.within_s
        paths: dict[str, Awaitable[None]] = {
            **{name: path(self.channel, written, within_s) for name, path in READS.items()},
            LEDGER: self.books.agree(self.channel, within_s),
            ARCHIVE: self._archived_lately(),
        }
        if self.watching is not None:
            paths[WATCH] = self.watching.shows(written, within_s)
        if self.alarm is not None:
            paths[ALARM] = self.alarm.tells(within_s)
        return outcomes + list(await asyncio.gather(*(_timed(name, work) for name, work in paths.items())))

    async def archived(self) -> Outcome:
        """Waits until everything written is archived, as long as that may take."""
        began_s = monotonic()
        while self._waiting and monotonic() - began_s < self.settings.archive_within_s:
            outcome = await _timed(ARCHIVE, self._archived_lately())
            if outcome.problem:
                return Outcome(ARCHIVE, monotonic() - began_s, outcome.problem)
            if self._waiting:
                await asyncio.sleep(_POLL_S)
        left = f"the last {len(self._waiting)} rounds are not archived after {self.settings.archive_within_s:g} s"
        return Outcome(ARCHIVE, monotonic() - began_s, left if self._waiting else "")

    async def _write(self) -> Written:
        """Durable on return."""
        at_us = self.clock.now_us()
        readings = known_readings(self.settings.first_sensor, at_us)
        request = ingest_pb2.SubmitBatchRequest(readings=write_columns(readings))
        request.open.gateway_id, request.open.region = self.settings.gateway_id, self.settings.region
        request.open.backfill = self.settings.backfill
        self.books.sent += len(readings)
        answer = await ingest_pb2_grpc.IngestServiceStub(self.channel).SubmitBatch(request, timeout=_CALL_S)
        if answer.rejections:
            self.books.sent -= len(readings)
            reasons = {ingest_pb2.RejectionReason.Name(each.reason) for each in answer.rejections}
            raise Fault(f"SubmitBatch refused the readings: {', '.join(sorted(reasons))}")
        written = Written(readings, at_us, answer.position)
        self._waiting.append(Waiting(written, self.books.sent, monotonic()))
        return written

    async def _archived_lately(self) -> None:
        """Raises Fault when the oldest round that is not archived is too old, or not in the manifest though it is counted."""
        counted = (await self.books.now(self.channel))["archived"]
        while self._waiting and self._waiting[0].total <= counted:
            if not await in_manifest(self.channel, self._waiting[0].written, self.settings.region):
                raise Fault("ListObjects: no object has readings that the ledger counts as archived")
            self._waiting.pop(0)
        if self._waiting and (late_s := monotonic() - self._waiting[0].since_s) > self.settings.archive_within_s:
            raise Fault(f"not archived after {late_s:.0f} s: see archive in `wq status`")


def known_readings(first_sensor: int, at_us: int) -> Readings:
    """What the probe writes at that time: a function of sensor and time alone, without anything that is a condition."""
    sensors = np.arange(first_sensor, first_sensor + SENSORS, dtype=np.int64)
    step = (at_us // 1_000_000 + sensors) % _STEPS
    values = np.array([typical + step * each.resolution for typical, each in zip(_TYPICAL, PARAMETERS, strict=True)], np.float32)
    return Readings(sensors, np.full(SENSORS, at_us, np.int64), values)


async def _timed(path: str, work: Awaitable[None]) -> Outcome:
    began_s, problem = monotonic(), ""
    try:
        await work
    except (WaterError, grpc.aio.AioRpcError) as error:
        problem = _said(error)
    return Outcome(path, monotonic() - began_s, problem)


def _said(error: WaterError | grpc.aio.AioRpcError) -> str:
    return from_rpc(error).message if isinstance(error, grpc.aio.AioRpcError) else error.message
